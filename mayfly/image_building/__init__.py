"""`mayfly image build`: an OCI image from a folder with a program."""

from mayfly.image_building.building import BuiltImage, Plan, build

__all__ = ["BuiltImage", "Plan", "build"]
