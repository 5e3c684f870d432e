# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.stages.goldens`: write the goldens of all stages."""

from tests.stages.goldens import refresh

refresh()
