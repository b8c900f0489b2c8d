"""No fixtures: these tests are functions of values. A busy machine is no failure of a rule."""

from hypothesis import settings

settings.register_profile("rules", deadline=None)
settings.load_profile("rules")
