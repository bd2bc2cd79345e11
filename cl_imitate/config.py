"""Every configuration dataclass, with its defaults written once. Loading lives in `load_config`.

Sizes are static (they shape compiled programs); rates are leaves (they can be vmapped over).
"""

import dataclasses
from typing import Annotated, Literal, dataclass_transform

import pydantic


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def _config(cls: type) -> type:
    """A frozen, keyword-only dataclass in which an unknown key is an error."""
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


Positive = Annotated[int, pydantic.Field(gt=0)]
Natural = Annotated[int, pydantic.Field(ge=0)]
Rate = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=1 << 32)]  # so many can keys tell apart
PositiveFloat = Annotated[float, pydantic.Field(gt=0.0)]

Products = Literal["float32", "tf32", "bfloat16"]
"""How exactly matrix products multiply; see `products`."""

Variant = Literal[
    "permute_symbols",
    "permute_channels",
    "permute_actions",
    "new_symbols",
    "mirror",
    "invert_reward",
    "delay_reward",
    "double_press",
    "change_start",
]


@_config
class Lock:
    """A ring of positions, each with one right action. Right pays 1 and moves on."""

    family: Literal["lock"] = "lock"
    num_positions: Positive = 8
    episode_steps: Positive = 16
    on_wrong: Literal["stay", "advance", "reset"] = "stay"
    resets: bool = True  # False: an episode boundary leaves the position where it is
    symbols: Literal["fixed", "per_task"] = "fixed"  # per_task: drawn anew for each task
    initial_positions: Natural = 0  # open-ended: the ring's size at age 0 (0 = num_positions)
    grow_every_steps: Natural = 0  # open-ended: one more position every so many steps of life (0 = never)
    grow_from_step: Natural = 0  # open-ended: these steps are counted from this age on

    def grows(self, first_step: int, last_step: int) -> bool:
        """Whether the ring is larger at the second age than at the first."""

        def size(age: int) -> int:
            grown = max(age - self.grow_from_step, 0) // self.grow_every_steps
            return min(self.num_positions, (self.initial_positions or self.num_positions) + grown)

        return self.grow_every_steps > 0 and size(last_step) > size(first_step)


@_config
class DarkRoom:
    """An N x N room with a hidden goal; being on it pays 1 a step."""

    family: Literal["dark_room"] = "dark_room"
    size: Positive = 9
    episode_steps: Positive = 20
    start: Literal["centre", "random_per_task"] = "centre"
    torus: bool = False
    num_held_out_goals: Natural = 8


@_config
class KeyToDoor:
    """A dark room in which an unseen key must be touched before an unseen door pays (once each)."""

    family: Literal["key_to_door"] = "key_to_door"
    size: Positive = 9
    episode_steps: Positive = 50


@_config
class Bandit:
    """Bernoulli arms; with several contexts, the context is observed and drawn anew each step."""

    family: Literal["bandit"] = "bandit"
    num_contexts: Positive = 1
    episode_steps: Positive = 10


@_config
class RandomMDP:
    """A tabular MDP with random transitions (a few outcomes each) and random Bernoulli rewards."""

    family: Literal["random_mdp"] = "random_mdp"
    num_states: Positive = 10
    num_outcomes: Positive = 2
    episode_steps: Positive = 20


@_config
class MinAtar:
    """A MinAtar game as the original is: six actions, sticky actions, no added time limit."""

    family: Literal["minatar"] = "minatar"
    game: Literal["breakout", "space_invaders", "asterix", "freeway"] = "breakout"
    sticky_probability: Rate = 0.1


@_config
class CartPole:
    """A pole to be balanced on a cart, a reward of 1 a step; the family that checks the learner on real numbers."""

    family: Literal["cart_pole"] = "cart_pole"
    max_episode_steps: Positive = 500  # then the episode is truncated


Environment = Annotated[
    Lock | DarkRoom | KeyToDoor | Bandit | RandomMDP | MinAtar | CartPole,
    pydantic.Field(discriminator="family"),
]


@_config
class Shapes:
    """What all symbolic families of a run share, so that any learner or imitator fits any of them."""

    num_symbols: Annotated[int, pydantic.Field(gt=0, le=256)] = 128
    num_actions: Annotated[int, pydantic.Field(gt=1, le=255)] = 5
    num_states: Positive = 128
    num_outcomes: Positive = 1


@_config
class Learner:
    """The DQN. Rates become arrays over the ensemble; sizes are static."""

    # rates
    learning_rate: PositiveFloat = 1e-3
    discount: Rate = 0.99
    epsilon_start: Rate = 0.1
    epsilon_end: Rate = 0.1
    epsilon_decay_steps: Positive = 1
    target_tau: Rate = 0.05  # Polyak rate; used when target_period_updates = 0
    # sizes
    hidden: tuple[Positive, ...] = (32,)
    conv_features: Positive = 16  # screens only: one 3 x 3 convolution before `hidden`
    replay: Literal["uniform", "latest"] = "uniform"  # latest: the last batch in order, nothing random
    replay_capacity: Positive = 8192
    batch_size: Positive = 32
    learning_starts_steps: Natural = 0
    steps_per_update: Positive = 1
    updates_per_iteration: Positive = 1
    target_period_updates: Natural = 0  # 0: Polyak averaging with `target_tau` at every update
    double_q: bool = False
    loss: Literal["squared", "huber"] = "squared"
    optimiser: Literal["adam", "rmsprop_centred"] = "adam"
    products: Products = "float32"  # factors of matrix products; tf32 (GPUs only) and bfloat16 are rounded


@_config
class Simulation:
    """How many learners, and how long."""

    num_recorded: Positive = 256  # they train the imitator
    num_held_out: Positive = 32  # other seeds, unseen tasks: what the imitator is tested on
    num_held_out_train_tasks: Positive = 32  # other seeds, training tasks (MONTH, rung 0)
    num_tasks: Natural = 0  # distinct training tasks; 0 = one for each recorded learner
    num_held_out_tasks: Natural = 0  # distinct held-out tasks; 0 = one for each held-out learner
    chunk_steps: Positive = 2048  # at most so many env steps in one compiled program
    block_size: Positive | Literal["auto"] = 16
    """Learners computed together; bits are equal for equal block sizes. "auto": on CPUs measured, else all of them;
    what was picked is kept in the manifest."""


@_config
class Imitator:
    """The sequence model."""

    kind: Literal["transformer", "linear_recurrence", "gru"] = "transformer"  # the latter two have no window
    context_steps: Positive = 128  # windows of training; a transformer acts on at most so many last steps
    also_context_steps: tuple[Positive, ...] = ()  # further imitators, reported beside the headline one
    refill_steps: Natural = 0  # the memory is rebuilt every so many steps; 0 = half the context
    attention_steps: Natural = 0
    """So many last steps are what each layer attends to, from a ring that is never rebuilt; 0 = the whole context.
    A step then feels what lies up to num_layers times as far back, in training as in acting."""
    width: Positive = 64
    num_layers: Positive = 2
    num_heads: Positive = 2
    dropout: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.0
    mask_inputs: Rate = 0.0  # share of previous-action and -reward inputs hidden in training
    observation_factor: Natural = 0  # f > 0: a symbol is embedded as (symbol // f, symbol % f)
    conv_features: Positive = 16  # screens only
    positions: Literal["relative", "absolute"] = "relative"  # absolute: a learned vector for each place
    sees: Literal["stream", "coin", "replay", "seed"] = "stream"
    """What of the learner's hidden causes it is shown; each shows all that those before it do. stream: nothing. coin:
    whether each step's action was drawn at random (before the action is; acting by itself, it draws its own coin at the
    learner's rate). replay: which past steps the update after each step drew (acting by itself: what the matched
    learner would have drawn). seed: the action values of the learner's untrained network."""
    reads_reward: bool = True
    reads_done: bool = True
    reads_age: bool = True  # MONTH needs it
    products: Products = "float32"  # as a learner's; norms, softmax, logits, loss, residuals: float32
    rematerialise: bool = False  # training: layers are computed again backwards instead of kept

    def shows(self, part: Literal["coin", "replay", "seed"]) -> bool:
        """Whether a part of the learner's hidden causes is among what it sees."""
        ladder = ("stream", "coin", "replay", "seed")
        return ladder.index(self.sees) >= ladder.index(part)

    def block_steps(self, context_steps: int) -> int:
        """How many steps are acted between two readings of a memory, and so in one compiled program."""
        return self.refill_steps or max(1, context_steps // 2)

    @property
    def context_at_least(self) -> int:
        """The fewest last steps that the headline imitator acts on (in a life that is long enough)."""
        if self.kind != "transformer" or self.attention_steps:
            return self.context_steps
        return self.context_steps - self.block_steps(self.context_steps)

    @property
    def memory(self) -> str:
        """What the headline imitator acts on, in words."""
        if self.kind != "transformer":
            words = {"gru": "a gated recurrent unit", "linear_recurrence": "a gated linear recurrence"}[
                self.kind
            ]
            return f"on all that its state keeps ({words}, trained on windows of {self.context_steps} steps)"
        if self.attention_steps:
            return (
                f"on the last {self.attention_steps} steps in each of its {self.num_layers} layers (trained on windows "
                f"of {self.context_steps})"
            )
        refill = self.context_steps - self.context_at_least
        return f"on its last {self.context_at_least} to {self.context_steps} steps (read anew every {refill})"


@_config
class Training:
    """Next-action prediction on the recorded histories."""

    feed: Literal["store", "stream"] = "store"  # stream: learners are simulated as they are trained on
    stream_learners: Positive = 64  # with stream: so many at once; they live, are trained on, and make room
    stream_devices: Literal["shared", "split"] = "shared"
    """With stream: all local devices simulate and train in turn, or half of them simulate what comes next meanwhile."""
    shard: Literal["members", "data", "fsdp"] = "members"
    """members: each imitator is trained on one device, as many of them at once as there are devices. data: the devices
    that are left then share each imitator's batch. fsdp: and they share its weights and the optimiser's state."""
    num_seeds: Positive = 3
    first_seed: Seed = (
        0  # imitators are numbered from here on: other numbers, other initialisations and batches
    )
    block_size: Natural = 0
    """Imitators computed together on a device; bits are equal for equal block sizes, as with learners. 0: a device's
    share of one run's. Above that, a sweep's runs fill each other's blocks (a run alone pads them)."""
    num_updates: Positive = 200
    batch_size: Positive = 32
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: PositiveFloat = 5e-5
    reference_width: Natural = 0
    """The width that the learning rates are meant for: at others, matrices whose inputs grow with the width learn that
    many times slower (and narrower ones faster), so that one rate suits all sizes. 0: as given at every width."""
    warmup_updates: Natural = 50
    weight_decay: Annotated[float, pydantic.Field(ge=0.0)] = 0.01
    clip_norm: PositiveFloat = 1.0
    start_of_history: Rate = 0.1  # share of windows forced to the start of a history
    start_every_steps: Positive = 1  # other windows start at a multiple of this
    keep_every_episodes: Positive = 1  # the imitator reads every n-th episode of a history
    unknown_age: Rate = 0.5  # share of windows whose age is hidden
    skip_ahead: Rate = 0.0
    """Of the windows that tell ages, the share that leaves out a stretch of its life, of any length: the examples from
    which an imitator can learn to heed a later age against what its context shows. MONTH asks for just that."""
    evaluate_every_updates: Positive = 50  # the loss on learners not trained on
    evaluate_windows: Positive = 64
    num_validation: Natural = 0  # so many recorded learners are not trained on; they then give that loss
    checkpoint_rule: Literal["last", "best_validation"] = "last"


@_config
class Month:
    """Joe plus a month: prompted at `start_step`, asked for the age `start_step + later_steps`."""

    start_step: Natural
    later_steps: Positive


@_config
class Rung:
    """One rung of ELSEWHERE's novelty ladder."""

    rung: Literal["0", "1", "2", "2b", "3", "4", "5"]
    name: str
    environment: Environment | None = None  # None: the family the imitator was trained on
    variants: tuple[Variant, ...] = ()
    split: Literal["train", "held_out"] = "held_out"


@_config
class Evaluation:
    """The protocols' stages, forks, horizons and rungs."""

    fork_steps: tuple[Positive, ...] = (640,)  # recording stops there; one set of imitators a fork
    now_fork_step: Positive = 640
    later_fork_step: Positive = 640
    stage_steps: tuple[Natural, ...] = (0,)  # PROCESS
    months: tuple[Month, ...] = ()
    rungs: tuple[Rung, ...] = ()
    block_steps: Positive = 32  # returns are averaged over blocks of so many steps
    now_steps: Positive = 128  # NOW looks at so many steps after the fork
    later_steps: Positive = 1280
    elsewhere_steps: Positive = 640
    elsewhere_learners: Positive = 24  # a rung
    transplant: bool = True


ControlName = Literal[
    "learner_posterior",
    "learner_posterior_without_truth",
    "test_time_training",
    "counterfactual_learner",
    "sham",
    "shuffled",
    "reward_masked",
    "stalled",
    "pace",
    "floor",
    "novelty",
]


EpisodeOrder = Literal["random", "reversed"]


@_config
class PosteriorPlace:
    """Another family and learner, on which the learner posterior is tried beside the run's own."""

    environment: Environment
    learner: Learner
    fork_step: Positive  # learners are recorded for so long; PROCESS and NOW are asked there
    later_fork_step: Natural = 0  # and LATER here; 0 = fork_step
    now_steps: Positive
    later_steps: Positive
    block_steps: Positive
    num_learners: Natural = 0  # held-out learners that are followed there; 0 = those of the run's own place


@_config
class Posterior:
    """The learner posterior: which learners it takes the observed one to be one of. The observed one is always among
    them: every list of rates holds the learner's own besides what stands here."""

    num_learners: Positive = 16  # held-out learners that are followed, at most all
    num_learners_without_truth: Positive = (
        16  # and by a posterior that lacks the truth, at most so many of these
    )
    num_recorded: Positive = (
        16  # recorded learners that tell it, as training tells an imitator, whom it will meet
    )
    learning_rates: tuple[PositiveFloat, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    discounts: tuple[Rate, ...] = (0.5, 0.9)
    epsilons: tuple[Rate, ...] = ()  # only where the learner's is constant
    epsilon_decay_steps: tuple[Positive, ...] = (100, 300, 900)  # only where it is annealed
    variants: tuple[Literal["target", "double_q", "latest_replay", "no_replay"], ...] = (
        "target",
        "double_q",
        "latest_replay",
        "no_replay",
    )
    """The learner with one part of its algorithm changed: a target network or none, (no) double Q, the last batch in
    order (or a uniform one), the last transition alone."""
    frozen_from_steps: tuple[Natural, ...] = (0,)  # learners that stop learning there
    num_initialisations: Positive = 2  # where hidden causes are not shared: particles of each hypothesis
    known_epsilon: bool = False  # every hypothesis explores as the learner does
    likelihood_power: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 1.0  # under 1: tempered
    resample_below: Rate = (
        0.0  # particles are resampled where their effective number is under this share; 0: never
    )
    at_once: Positive = 1  # particles side by side; at 1 the truth's bits are the learner's
    also: PosteriorPlace | None = None


@_config
class Controls:
    """Which controls are made beside the protocols, and how large they are."""

    run: tuple[ControlName, ...] = ()
    floor_learners: Positive = 8  # so many held-out learners
    floor_clones: Annotated[int, pydantic.Field(gt=2)] = 32  # and so many continuations of each
    floor_states: Positive = 16  # compared on the last so many observations before each look
    sham_stages: Positive = 16  # snapshots of each learner that sham histories are mixed from
    sham_level_steps: Positive = 128  # each snapshot is held for so many steps, to know its return
    episode_order: EpisodeOrder = "random"  # of `shuffled`
    test_time_rounds: Positive = 10  # test-time training: the horizon in so many parts, trained between them
    test_time_updates: Positive = 20  # after each round but the last
    test_time_learning_rate: Annotated[float, pydantic.Field(ge=0.0)] = (
        0.0  # 0 = training.final_learning_rate
    )
    stall_step: Natural = (
        0  # where the learner stops updating, a stage or fork; 0 = evaluation.later_fork_step
    )
    pace_factors: tuple[PositiveFloat, ...] = (0.25, 1.0, 4.0)  # of learner.learning_rate
    pace_share: Rate = 0.2  # prompted where this share of the unchanged learner's gain is reached
    pace_lives: Positive = 4  # learners live so many times the recorded span, or until then
    pace_steps: Natural = 0  # gains are compared over so many steps after; 0 = the context
    posterior: Posterior = dataclasses.field(default_factory=Posterior)


@_config
class Gate:
    """Where the instrument shows that it can see a yes: this run's own PROCESS, or a Lock beside it."""

    experiment: str = "self"  # "self", or a config file (relative to this one) run inside this run
    min_gain: Rate = 0.85
    max_wiped_gain: Rate = 0.1
    min_tasks_above_half: Rate = 0.8


@_config
class Rules:
    """The decision rules, fixed before the run and copied into the verdict."""

    confidence: Rate = 0.95
    bootstrap_samples: Annotated[int, pydantic.Field(ge=50)] = (
        2000  # with fewer, an interval's ends are single draws
    )
    reference_fraction: Rate = 0.1  # the reference is the mean of this last share of a horizon
    parity: PositiveFloat = 0.9  # NOW, MONTH: yes above, no below
    exceeds: PositiveFloat = 1.1
    learns_yes: Rate = 0.5  # PROCESS, LATER, ELSEWHERE: yes if the lower bound is above
    learns_no: Rate = 0.1  # no if the upper bound is below
    later_min_now_ratio: Rate = 0.7  # LATER is void below
    min_learner_gain: Rate = 0.2  # PROCESS and LATER are void where the learner itself gains less
    elsewhere_min_learner_gain: Rate = 0.8  # a rung counts only where the learner itself reaches this
    converged_share: Rate = 0.05  # training: a fall over the last quarter under this share of what is left
    departure_margin: Rate = 0.1
    departure_blocks: Positive = 3


@_config
class Fork:
    """Whose learners a run goes on with, if they were not born in it; `cl-imitate fork` writes it."""

    parent_fingerprint: Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
    step: Positive  # the learners' age; up to there their histories are the parent's
    rates_since: Natural = 0  # the age since which their rates are those of `learner`; 0 = birth


@_config
class Experiment:
    """One run, whole."""

    name: str
    seed: Seed = 0
    environment: Environment
    shapes: Shapes = dataclasses.field(default_factory=Shapes)
    learner: Learner = dataclasses.field(default_factory=Learner)
    simulation: Simulation = dataclasses.field(default_factory=Simulation)
    imitator: Imitator = dataclasses.field(default_factory=Imitator)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    controls: Controls = dataclasses.field(default_factory=Controls)
    gate: Gate = dataclasses.field(default_factory=Gate)
    rules: Rules = dataclasses.field(default_factory=Rules)
    fork: Fork | None = None
    rules_sha256: str | None = None  # as registered before the run: rules with another hash are an error

    @property
    def recorded_steps(self) -> int:
        """T: how long learners are recorded, up to the last fork."""
        return max(self.evaluation.fork_steps)
