"""The network of this function, as the variables HVSA_* of function.yaml describe it."""

import os

from hvsa_cvat.serving.nuclio import open_function, respond


class ModelHandler:
    def __init__(self):
        self.function = open_function(os.environ)

    def handle(self, body):
        return respond(self.function, body)
