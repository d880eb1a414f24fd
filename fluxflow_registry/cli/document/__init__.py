"""`--document`: a page of Markdown for each kind of component."""
