"""What is recorded and repeated to explain a run: traces, bundles, replays."""
