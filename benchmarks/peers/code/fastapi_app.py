"""FastAPI: one function."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def noop() -> dict[str, bool]:
    return {"ok": True}
