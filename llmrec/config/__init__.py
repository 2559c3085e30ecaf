"""One configuration for a run: dataclasses, one YAML file and `key=value` overrides through one strict parser.

An unknown key is an error that names it and the nearest known one; nothing is ignored.
"""

from llmrec.config.algorithms import SHIPPED, Algorithm, register_section
from llmrec.config.data import (
    DataConfig,
    IdentifierSettings,
    ScenarioSettings,
    TextConfig,
    WithheldSettings,
    WorldConfig,
)
from llmrec.config.improvement import (
    BestOfNSettings,
    GRPOSettings,
    OffPolicySettings,
    PPOSettings,
    PreferenceSettings,
    ReinforceSettings,
    RewardModelSettings,
    RLHFSettings,
    RLOOSettings,
    RolloutSettings,
    SDPOSettings,
    SessionSettings,
    StabilitySettings,
    UpdateSettings,
)
from llmrec.config.reward import RewardSettings, Unvouched
from llmrec.config.run import TRUST_CODE, EvaluationSettings, GateSettings, RunConfig, unvouched
from llmrec.config.simulation import (
    BudgetSettings,
    ChoiceSettings,
    DriftSettings,
    DynamicsSettings,
    EnvironmentSettings,
    NoveltySettings,
    PatienceSettings,
    ReturnSettings,
    SatiationSettings,
    SimulatorSettings,
    TrustSettings,
)
from llmrec.config.training import LoraSettings, ModelConfig, SFTSettings, TeacherSettings

__all__ = [
    "SHIPPED",
    "TRUST_CODE",
    "Algorithm",
    "BestOfNSettings",
    "BudgetSettings",
    "ChoiceSettings",
    "DataConfig",
    "DriftSettings",
    "DynamicsSettings",
    "EnvironmentSettings",
    "EvaluationSettings",
    "GRPOSettings",
    "GateSettings",
    "IdentifierSettings",
    "LoraSettings",
    "ModelConfig",
    "NoveltySettings",
    "OffPolicySettings",
    "PPOSettings",
    "PatienceSettings",
    "PreferenceSettings",
    "RLHFSettings",
    "RLOOSettings",
    "ReinforceSettings",
    "ReturnSettings",
    "RewardModelSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunConfig",
    "SDPOSettings",
    "SFTSettings",
    "SatiationSettings",
    "ScenarioSettings",
    "SessionSettings",
    "SimulatorSettings",
    "StabilitySettings",
    "TeacherSettings",
    "TextConfig",
    "TrustSettings",
    "Unvouched",
    "UpdateSettings",
    "WithheldSettings",
    "WorldConfig",
    "register_section",
    "unvouched",
]
