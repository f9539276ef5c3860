"""A FastAPI application: one handler checks its input with pydantic and waits; its helper runs in the thread pool."""

import asyncio
import secrets
import sys
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

app = FastAPI()
calls = 0


class Asked(BaseModel):
    text: str
    number: int


def total(asked: Asked) -> int:
    """A plain function: FastAPI runs it in a thread."""
    return sum(n * n for n in range(asked.number + 1))


@app.post("/")
async def call(asked: Asked, squares: Annotated[int, Depends(total)]) -> dict[str, object]:
    global calls
    calls += 1
    await asyncio.sleep(0.001)
    return {
        "text": asked.text,
        "count": calls,
        "sum": squares,
        "random": secrets.token_hex(16),
        "version": f"{sys.version.split()[0]}, FastAPI {version('fastapi')}, uvicorn {version('uvicorn')}",
    }
