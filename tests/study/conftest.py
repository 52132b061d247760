"""Studies on a tracking store of the test's own."""

import pytest

from mm_balance.study.handle import make_study
from mm_balance.tracking.lookup import open_run
from tests.helpers.studies import settings_of


@pytest.fixture
def new_desk(store):
    """A function that makes a study."""

    def make(trials=5, name="mine", storage="auto", **asked):
        settings = settings_of(**asked)
        return make_study(name, storage, settings, open_run(f"study {name}"), trials)

    return make
