"""What a component of each kind is: the protocols that plugins meet and the engine relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from attrs import evolve, frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Names that the engine itself provides to every value, loss and metric.
CONTEXT: Mapping[str, str] = {
    "generator": "torch.Generator seeded from (run seed, step, position, name); None on the meta device",
    "step_batch": "int, batches that this step has done before this one",
    "sampler": "the recipe's sampler: sampler(velocity, noise, path) -> sample",
    "image_size": "(height, width) in pixels of the pictures to draw",
}


@frozen
class Field:
    """One field of a dataset's batches: shape of a single sample, dtype, meaning.

    `shape=None` with `dtype="text"` is a list of strings, one a sample. Where not all batches have one
    shape, `also` holds the others that a batch may have: each is proven before training. Fields that
    vary together have as many, in the same order.
    """

    shape: tuple[int, ...] | None
    dtype: str = "float32"
    meaning: str = ""
    also: tuple[tuple[int, ...], ...] = ()


def variants(fields: Mapping[str, Field]) -> list[Mapping[str, Field]]:
    """The fields of every form that a batch may have, each with one shape; the usual form first."""
    count = 1 + max((len(field.also) for field in fields.values()), default=0)
    return [
        {
            name: evolve(field, shape=(field.shape, *field.also)[number], also=()) if field.also else field
            for name, field in fields.items()
        }
        for number in range(count)
    ]


class Source(Protocol):
    """An opened dataset: map-style over indices, so that any position is reached in constant time."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """The samples at `indices` as one batch.

        Every random choice about sample i (crop, flip) is a pure function of (seed, i), so that
        neither the worker nor the batch in which a sample is read can change it.

        Raises SampleError for samples that are damaged: it is asked again with others in their places.
        A source for which one long read is cheaper than many short ones may have an attribute
        `samples_at_once`; it is then asked for several batches in one call. One whose samples have
        names may have a method `name(index) -> str`, which messages use. One whose samples can change
        between two processes may have an attribute `digest`: a run that goes on tells where it is another.

        Further doors, each of them optional:

        - `buckets`: a sequence that gives for each sample the number of its bucket. A batch holds samples
          of one bucket only; a method `bucket_name(number) -> str` says what a bucket is.
        - `views` and `view(fields, number)`: how many forms of one batch are trained on, one after
          the other, and form `number` of what `batch` has given, on whatever device its tensors are.
          Each is a batch of its own for all that counts batches but `max_steps`.
        - `left_out`: a sequence of Problems, one for each sample that was found damaged on opening and is
          not among the samples.
        - `notes`: a sequence of sentences that a user should know of how it was opened.
        - `about`: a sequence of sentences on what its samples are, which `--inspect-data` tells.
        - `sizes()`: int64 [samples, 2], width and height of each sample as it is stored, 0 where unknown.
        """


class Dataset(Protocol):
    """Options of a data source."""

    def fields(self) -> Mapping[str, Field]:
        """The fields of a batch, known without opening anything."""

    def __call__(self) -> Source:
        """Open the source; raises DataError.

        A dataset that can be held out of training may have a method `overlap(label, other, trained)`. It is
        given its own label, and another dataset of the recipe, on which a model is trained that is measured
        on this one: the label, and the options, which may be of any type. If the recipe alone says that
        samples are in both although this one is held out, it gives a Problem without `where`; otherwise None.
        """


class Stateful(Protocol):
    """A loss, value, transition or balancer that keeps something between batches.

    What it keeps is in every checkpoint, begins anew with each step, and is put back where a batch is
    left out. A component without these methods may keep nothing: `--prove-resume` finds one that does.
    """

    def state_dict(self) -> dict[str, Any]:
        """Everything that it keeps: tensors and plain values, as deep as need be."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""


class Gradients(Protocol):
    """How the losses of an update pull at one of its parameters: what a balancer may ask for as `gradients`.

    It is asked while the balancer's weigher is called, and costs a walk back for each loss each time.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each loss of this batch, its warm-up included, before any factor of the balancer."""

    def check(self, layer: str, losses: Sequence[str] = ()) -> None:
        """Hold that the update trains a parameter of this name, which these losses reach.

        To be asked when the balancer is made, so that it is known before training. A name is that of the model and
        that within it, such as `expander.out.weight`. Raises FluxflowError.
        """

    def __call__(self, layer: str) -> Mapping[str, Tensor]:
        """The gradient of each loss of this batch at that parameter, without weight and without history.

        Cuts hold. A loss that does not reach the parameter, or that this batch leaves out, is not among them.
        """


class Naming(Protocol):
    """What a component says of the names that its options give, so that a recipe is refused where they are not there.

    A transition and an observer may have `metrics`, a balancer may have `losses` and `spared`; each method may be left
    out. What an option only renames where it is there is not among them.
    """

    def metrics(self) -> Sequence[str]:
        """Metrics: of a transition those that it watches; of an observer those of training, in whatever step."""

    def losses(self) -> Sequence[str]:
        """Labels of losses of the balancer's update."""

    def spared(self) -> Sequence[str]:
        """Labels of losses that the balancer leaves alone; one that `false` takes away may be among them."""


#: Whether less or more of a figure is better.
Direction = Literal["lower", "higher"]

#: For the name of a figure that a step logs or measures: which way it is better.
Better = Callable[[str], Direction]

_Metric = TypeVar("_Metric", bound=Callable[..., Any])


def higher_is_better(metric: _Metric) -> _Metric:
    """Mark a metric of which more is better, be it a function or a class: it has an attribute `better`.

    `better` is "lower" or "higher"; without it less is better, as of a loss. A metric that gives a dict may
    have a dict of its figures to these. Where a recipe does not say which way is better, the metric does.
    """
    metric.better = "higher"  # type: ignore[attr-defined]
    return metric


class Directed(Protocol):
    """What a transition or a scheduler has that follows the direction of the metrics that it watches."""

    def directed(self, better: Better) -> Any:
        """The same options with a direction in place of each that the recipe leaves to the metric."""


@frozen
class Draw:
    """Values that an observer will ask a run to draw, so that a recipe is checked for them.

    An observer that draws has a method `draws()` that gives these. They are computed from batches of
    `dataset`, or, without one, from the named `fields` alone; in the named `steps`, or in all.

    What is `optional` is drawn where the recipe has the models for it, and left out elsewhere: the
    observer asks the run by `upstream`. One that nothing at all provides is left out too.
    """

    values: tuple[str, ...]
    dataset: str | None = None
    fields: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@frozen
class Summary:
    """One metric over one epoch: mean, minimum, maximum, and the mean of its last 20 logged values."""

    mean: float
    minimum: float
    maximum: float
    smoothed: float


#: For each metric, one Summary an epoch, oldest first.
History = Mapping[str, Sequence[Summary]]


@frozen
class Ending:
    """Why a step ends; `limit` marks an ending by a safety limit, which is worth a warning."""

    reason: str
    limit: bool = False


@frozen
class Position:
    """Where a run stands: all integers, from which everything random is derived.

    `step` is the index of the step, `epoch` and `batch` count what is finished, `batch` within the
    epoch, `step_batch` within the step, `run_batch` within the run.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    step_batch: int = 0
    run_batch: int = 0

    def after_batch(self) -> Position:
        """The place after one more batch of the same epoch."""
        return evolve(self, batch=self.batch + 1, step_batch=self.step_batch + 1, run_batch=self.run_batch + 1)


@frozen
class Kind:
    """A kind of component: what its hook is called, what its call may ask for, what it returns."""

    name: str
    plural: str
    returns: str
    #: The parameter names that a call of this kind may use; None: any value of the graph.
    offers: tuple[str, ...] | None = None
    #: Options that belong to the recipe's entry itself and that no component may claim.
    reserved: tuple[str, ...] = ("type",)
    #: Methods that a component of this kind must have beside its call.
    methods: tuple[str, ...] = ()
    #: Whether the component is called at all (an observer only listens).
    called: bool = True

    @property
    def hook(self) -> str:
        """Name of the hook in which plugins register this kind."""
        return f"fluxflow_register_{self.plural}"


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "loss",
            "losses",
            "a 0-d tensor to be minimised",
            reserved=("type", "weight", "warmup", "every", "start", "detach", "with"),
        ),
        Kind("value", "values", "what its name says", reserved=("type", "with")),
        Kind(
            "model",
            "models",
            "an nn.Module",
            offers=("weights",),
            reserved=("type", "compile", "channels_last", "checkpointing"),
        ),
        Kind("optimizer", "optimizers", "a torch Optimizer", offers=("parameters",)),
        Kind("scheduler", "schedulers", "a torch LRScheduler", offers=("optimizer", "total")),
        Kind("transition", "transitions", "an Ending, or None to go on", offers=("epoch", "epochs", "history")),
        Kind(
            "balancer",
            "balancers",
            "a weigher: weigher(losses) -> factor of each loss",
            offers=("losses", "gradients"),
        ),
        Kind(
            "dataset",
            "datasets",
            "an opened Source",
            offers=(),
            reserved=("type", "batch_size", "workers"),
            methods=("fields",),
        ),
        Kind("sampler", "samplers", "a sample at t = 0", offers=("velocity", "noise", "path")),
        Kind("metric", "metrics", "a 0-d tensor, or a dict of them", reserved=("type", "with")),
        Kind("observer", "observers", "nothing", called=False),
    )
}

#: A velocity field dx/dt = velocity(x, t), t a 0-d tensor in [0, 1].
VelocityField = Callable[["Tensor", "Tensor"], "Tensor"]


class NoisePath(Protocol):
    """What a sampler may know of the path that it walks back: x_t = alpha(t) x_0 + sigma(t) noise.

    Both are linear in t, with alpha(0) = 1 and sigma(0) = 0, so that the field is smooth up to t = 0 and
    x_0 = x_t - t dx/dt. alpha(1) need not be 0: then what stands at t = 1 still holds some of x_0.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """The share of x_0."""

    def sigma(self, t: Tensor) -> Tensor:
        """The share of the noise."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        """`steps` + 1 times from 1 to 0, even in the time that the network was trained with."""


#: Integrates a velocity field from noise at t = 1 to a sample at t = 0: sampler(velocity, noise, path). A component
#: of the kind is called by name with those of the three that it asks for.
Sampler = Callable[[VelocityField, "Tensor", NoisePath], "Tensor"]
