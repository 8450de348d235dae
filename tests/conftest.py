"""Settings every test shares."""

from hypothesis import settings

from wsseg.imaging.privacy import keep_caches_private

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ci")
# As the commands do; and it comes before any test module imports a library that would report.
keep_caches_private()
