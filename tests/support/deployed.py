"""
An application in two versions: the old one has no handler for events of the type `test.new`.
"""

import os

from consumer import Consumer
from tests.support.effects import apply
from tests.support.ordered import step

consumer = Consumer("deployed", bindings=["test.#"], ordered=os.environ.get("IS_ORDERED") == "yes")
consumer.on("test.happened")(apply)
consumer.on("test.step")(step)
if os.environ.get("IS_NEW") == "yes":
    consumer.on("test.new")(step)
