"""Many models behind few replicas: each holds the last ones it was asked for, and requests go where theirs is.

meshctl run multiplexing:app
curl 'localhost:8000/fr?text=good+morning'
"""

import asyncio
from typing import Any

from starlette.requests import Request

import mesh

WORDS = {
    "de": {"good": "guten", "morning": "Morgen", "evening": "Abend"},
    "es": {"good": "buenos", "morning": "días", "evening": "noches"},
    "fr": {"good": "bon", "morning": "matin", "evening": "soir"},
    "it": {"good": "buon", "morning": "giorno", "evening": "sera"},
}


class Model:
    """Stands for something large that takes long to load, and gigabytes of memory."""

    def __init__(self, language: str) -> None:
        self.words = WORDS[language]

    def translate(self, texts: list[str]) -> list[str]:
        return [" ".join(self.words.get(word, word) for word in text.split()) for text in texts]


@mesh.deployment(num_replicas=2)
class Translator:
    @mesh.multiplexed(max_models_per_replica=2)
    async def get_model(self, language: str) -> Model:
        await asyncio.sleep(0.05)  # the download
        print("loaded", language)
        return Model(language)

    @get_model.unload
    async def drop(self, language: str, model: Model) -> None:
        print("unloaded", language)

    @mesh.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def translate(self, texts: list[str]) -> list[str]:  # of one language: batches are of one model
        model = await self.get_model(mesh.get_multiplexed_model_id())
        return model.translate(texts)

    async def __call__(self, request: Request) -> Any:  # with the header x-mesh-model-id
        return {"text": await self.translate(request.query_params["text"])}


@mesh.deployment
class Front:
    def __init__(self, translator: mesh.DeploymentHandle) -> None:
        self.translator = translator

    async def __call__(self, request: Request) -> Any:
        language = request.url.path.strip("/")
        if language not in WORDS:
            return {"languages": sorted(WORDS)}
        by_language = self.translator.options(multiplexed_model_id=language)
        return {"text": await by_language.translate.remote(request.query_params["text"])}


app = Front.bind(Translator.bind())
direct = Translator.bind()
