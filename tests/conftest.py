"""Settings of all tests: wall-clock limits that hold on a machine whose cores are taken now and then."""

from hypothesis import HealthCheck, settings

settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")
