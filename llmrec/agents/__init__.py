"""Classic RL recommenders: Q-learning, SARSA, DQN, A2C, on the states and rewards of the language-model policies.

    features = StateFeatures.fit(items, states, seed=0)
    meeting = OneStep(states, None, reward, features, len(items))
    agent = train_tabular(meeting, features, TabularSettings(), seed=0)
    agent.recommend(states, k=10)

`llmrec.agents.deep` has the networks (`train_deep`), for which stable-baselines3 must be installed.
"""

from llmrec.agents.agent import Agent, Trained
from llmrec.agents.features import StateFeatures, item_embeddings
from llmrec.agents.meeting import Meeting, Observed, OneStep, Sessions, UserTurn
from llmrec.agents.settings import DQNSettings, PolicyGradientSettings, RLSettings, TabularSettings
from llmrec.agents.store import load_agent
from llmrec.agents.tabular import TabularAgent, train_tabular

__all__ = [
    "Agent",
    "DQNSettings",
    "Meeting",
    "Observed",
    "OneStep",
    "PolicyGradientSettings",
    "RLSettings",
    "Sessions",
    "StateFeatures",
    "TabularAgent",
    "TabularSettings",
    "Trained",
    "UserTurn",
    "item_embeddings",
    "load_agent",
    "train_tabular",
]
