"""DQN, double and dueling, and the policy gradient, on stable-baselines3, deployed as recommenders.

    DQN:     y = r + gamma max over legal a of Q'(s', a)
    double:  y = r + gamma Q'(s', argmax over legal a of Q(s', a))

with the target network Q' and nothing after a session's last turn. The policy gradient is A2C; with the defaults of
`PolicyGradientSettings` it is REINFORCE with a baseline, which stable-baselines3 does not offer under that name.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch.nn import functional

from llmrec.agents.agent import FACTS, Agent, Trained
from llmrec.agents.clusters import draw_legal
from llmrec.agents.features import Float32Array, StateFeatures
from llmrec.agents.meeting import Meeting, legal_items
from llmrec.agents.networks import SEEN, ItemActorCritic, ItemDQNPolicy, as_observation, observation_space
from llmrec.agents.settings import DeepSettings, DQNSettings, PolicyGradientSettings
from llmrec.agents.stepping import MeetingEnv, Watch, own_randomness
from llmrec.agents.tabular import stretches
from llmrec.errors import DataError, RunError
from llmrec.files import write_json
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.simulator.environments.population import check_features
from llmrec.types import FloatArray, IntArray

from stable_baselines3 import A2C, DQN  # isort: skip  (networks says what to install)
from stable_baselines3.common.logger import Logger  # isort: skip
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file  # isort: skip

KINDS: dict[str, type[DeepSettings]] = {"dqn": DQNSettings, "a2c": PolicyGradientSettings}
_WEIGHTS = "policy.zip"


class DeepAgent(Agent):
    """A trained policy of stable-baselines3 as a recommender: by Q-values (DQN) or by log pi (A2C)."""

    def __init__(
        self,
        features: StateFeatures,
        policy: Any,
        item_NE: Float32Array,
        settings: DeepSettings,
        repeat: str = "allow",
        seed: int = 0,
    ) -> None:
        super().__init__(features, len(item_NE), repeat, seed)
        self.policy, self.item_NE, self.settings = policy, item_NE, settings
        self.policy.set_training_mode(False)
        self.trained: Trained | None = None

    def values(self, feature_BD: Float32Array) -> FloatArray:
        """Q or log pi of each item, (B, N)."""
        none_B1 = np.full((len(feature_BD), 1), -1, dtype=np.int64)
        arrays = as_observation(feature_BD, none_B1, self.policy.observation_space[SEEN].shape[0])
        with torch.no_grad():
            obs = {name: torch.from_numpy(array) for name, array in arrays.items()}
            value_BN: FloatArray = self.policy.item_values(obs).numpy()
        return value_BN

    def _save(self, folder: Path) -> None:
        # Weights alone: what stable-baselines3 pickles beside them would have to be trusted when it is read again.
        save_to_zip_file(folder / _WEIGHTS, params={"policy": self.policy.state_dict()})
        np.savez(folder / "items.npz", item=self.item_NE)
        kind = "dqn" if isinstance(self.settings, DQNSettings) else "a2c"
        facts = {"kind": kind, "settings": self.settings.tree(), "repeat": self.repeat, "seed": self.seed}
        write_json(folder / FACTS, facts | {"seen": int(self.policy.observation_space[SEEN].shape[0])})

    @classmethod
    def restore(
        cls, folder: Path, features: StateFeatures, facts: dict[str, Any], item_NE: Float32Array
    ) -> DeepAgent:
        """The agent that `save` wrote; see `agents.load_agent`."""
        settings = KINDS[facts["kind"]](**facts["settings"])
        space = observation_space(features.width, facts["seen"], len(item_NE))
        # weights are drawn and then replaced; the draw must not move anybody's generators
        with own_randomness(0):
            policy = _policy_class(settings)(
                space,
                spaces.Discrete(len(item_NE)),
                lambda _: settings.learning_rate,
                **_arguments(settings, item_NE),
            )
        try:
            _, params, _ = load_from_zip_file(folder / _WEIGHTS, device="cpu", load_data=False)
            policy.load_state_dict(params["policy"])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise RunError(f"{folder / _WEIGHTS} cannot be read ({reason}); save the agent anew.") from None
        return cls(features, policy, item_NE, settings, facts["repeat"], facts["seed"])


class ItemDQN(DQN):  # type: ignore[misc]
    """stable-baselines3's DQN with double targets, and with exploration among legal items from a stream of its own.

    There every user of a step explores or none does, over all actions; here each user's luck is its own.
    """

    def __init__(self, *args: Any, settings: DQNSettings, exploring: np.random.Generator, **more: Any) -> None:
        self.own, self.exploring = settings, exploring
        super().__init__(*args, **more)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[IntArray, IntArray]:
        legal_BN = legal_items(self._last_obs[SEEN].astype(np.int64), self.action_space.n)
        item_B = draw_legal(legal_BN, self.exploring)
        if self.num_timesteps >= learning_starts:
            best_B, _ = self.policy.predict(self._last_obs, deterministic=True)
            explores_B = self.exploring.random(n_envs) < self.own.epsilon_at(1 - self._current_progress_remaining)
            item_B = np.where(explores_B, item_B, best_B)
        return item_B, item_B

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Gradient steps on the Huber loss to the (double) target."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            data = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                ahead_BN = self.q_net_target(data.next_observations)
                # Van Hasselt et al. 2016: a maximum over noisy values is too high, unless one network picks and
                # another one values
                chosen_BN = self.q_net(data.next_observations) if self.own.double else ahead_BN
                target_B = td_target(data.rewards[:, 0], data.dones[:, 0], self.gamma, ahead_BN, chosen_BN)
            value_B = self.q_net(data.observations).gather(1, data.actions.long())[:, 0]
            # Huber's, as in DQN (Mnih et al. 2015): one surprising session does not swamp a batch
            loss = functional.smooth_l1_loss(value_B, target_B)
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps


def td_target(
    reward_B: torch.Tensor, over_B: torch.Tensor, gamma: float, ahead_BN: torch.Tensor, chosen_BN: torch.Tensor
) -> torch.Tensor:
    """r + gamma (1 - over) ahead[argmax of chosen], (B,).

    With the target network for both it is DQN's target; with the online network as `chosen_BN` the double one.
    """
    best_B1 = chosen_BN.argmax(dim=1, keepdim=True)
    return reward_B + gamma * (1 - over_B) * ahead_BN.gather(1, best_B1)[:, 0]


def train_deep(
    meeting: Meeting,
    features: StateFeatures,
    item_NE: npt.ArrayLike,
    settings: DQNSettings | PolicyGradientSettings,
    *,
    repeat: str = "allow",
    seed: int = 0,
) -> DeepAgent:
    """Trains DQN or A2C, as `settings` say, on `meeting`.

    Args:
        meeting: users and rewards.
        features: what `meeting` observes with, kept for deployment.
        item_NE: the items as vectors (`agents.item_embeddings`), (N, E).
        settings: of the algorithm.
        repeat: "exclude" where seen items must not be recommended.
        seed: run seed.

    Raises:
        DataError: item vectors that do not fit the catalogue, or are not finite.
        RequestError: a user who has seen the whole catalogue.
    """
    items = check_features(item_NE, meeting.n_items, "the item embeddings")
    name = "dqn" if isinstance(settings, DQNSettings) else "a2c"
    with own_randomness(stream_seed(seed, "agents", name)) as small:
        env = MeetingEnv(meeting, stream_seed(seed, "agents", "training"))
        model = _model(env, items, settings, seed, small)
        cpu = time.process_time()
        with Bar(f"Training {name}", settings.transitions) as bar:
            watch = Watch(bar, settings.seconds)
            model.learn(settings.transitions, callback=watch, log_interval=None)
    curve = stretches(watch.rewards, meeting.count)
    trained = Trained(int(model.num_timesteps), time.process_time() - cpu, curve, watch.late)
    if not all(bool(torch.isfinite(p).all()) for p in model.policy.parameters()):
        raise DataError(f"The training of {name} diverged; lower agents.learning_rate.")
    agent = DeepAgent(features, model.policy, items, settings, repeat, seed)
    agent.trained = trained
    return agent


def _model(env: MeetingEnv, item_NE: Float32Array, settings: DeepSettings, seed: int, small: int) -> Any:
    common: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "gamma": settings.gamma,
        "max_grad_norm": settings.max_grad_norm,
        "policy_kwargs": _arguments(settings, item_NE),
        "seed": small,
        "device": "cpu",
    }
    if isinstance(settings, DQNSettings):
        model: Any = ItemDQN(
            ItemDQNPolicy,
            env,
            settings=settings,
            exploring=numpy_stream(seed, "agents", "dqn", "exploring"),
            buffer_size=settings.buffer,
            batch_size=settings.batch_size,
            learning_starts=settings.learning_starts,
            train_freq=1,
            gradient_steps=settings.updates,
            # stable-baselines3 counts steps of all users together, and divides by their number
            target_update_interval=max(settings.target_every, env.num_envs),
            **common,
        )
    else:
        assert isinstance(settings, PolicyGradientSettings)
        model = A2C(
            ItemActorCritic,
            env,
            n_steps=settings.steps,
            gae_lambda=settings.gae_lambda,
            ent_coef=settings.entropy,
            vf_coef=settings.value,
            normalize_advantage=settings.normalised,
            use_rms_prop=False,
            **common,
        )
    # its own logger would leave an empty folder behind in the system's temporary one
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _arguments(settings: DeepSettings, item_NE: Float32Array) -> dict[str, Any]:
    """What the policy's constructor is given beside spaces and learning rate."""
    own: dict[str, Any] = {"item_NE": item_NE, "tuned": settings.tuned_items}
    if isinstance(settings, DQNSettings):
        return own | {"net_arch": list(settings.hidden), "dueling": settings.dueling}
    widths = list(settings.hidden)
    return own | {"net_arch": {"pi": widths, "vf": widths}}


def _policy_class(settings: DeepSettings) -> Any:
    return ItemDQNPolicy if isinstance(settings, DQNSettings) else ItemActorCritic
