"""``convbench sample``: what it draws and stores; runs that are killed, resumed and shared; what it refuses.

On the small digits' network with random weights: what matters here is which image comes out where.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convbench import cli, files
from convbench.catalogue import find
from convbench.cli.progress import ImageProgress
from convbench.errors import UsageError
from convbench.measure.engine import open_engine
from convbench.models import create
from convbench.sampling import decoding, images, png, samplers, shards
from convbench.sampling.guidance import guided
from convbench.sampling.noise import PerImage
from convbench.timing.compare import quality_word

ROOT = Path(__file__).parents[2]
MODEL = "dico_digits"
RANDOM = ["--model", MODEL, "--weights", "random", "--steps", "4", "--device", "cpu"]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; gives its exit code and stderr. Nothing goes to stdout."""

    def run(*args: object, random: bool = True) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["sample", *(RANDOM if random else []), *map(str, args)])
        shown = capsys.readouterr()
        assert shown.out == ""
        return int(ended.value.code or 0), shown.err

    return run


@pytest.fixture(scope="module")
def recipe() -> images.Recipe:
    """What ``run`` asks for."""
    return images.Recipe(MODEL, 8, None, "iddpm", 4, 1.5, None, 0, tuple(range(10)), "eager", "fp32", None)


def decoded_png(content: bytes) -> NDArray[np.uint8]:
    """The pixels of a PNG of 8 bits without filters, its checksums verified."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", content[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8 and rest == [0, 0, 0]
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


def by_hand(recipe: images.Recipe, numbers: list[int], labels: list[int]) -> torch.Tensor:
    """The samples without anything of images.py."""
    noise = PerImage(recipe.seed, numbers, (1, 8, 8))
    with torch.inference_mode():
        model = guided(create(MODEL, res=8), torch.tensor(labels), 10, recipe.cfg_scale)
        return samplers.create(recipe.sampler, recipe.steps).sample(model, noise.start(), noise)


def assert_same_images(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal, but for what another batch size moves in the last digits of float32."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    if found.dtype == np.uint8:
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    else:
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


# ---- pictures ----


def test_a_grid_holds_the_images_in_order(tmp_path: Path, run: Run, recipe: images.Recipe) -> None:
    code, said = run("--out", tmp_path / "grid.png", "--count", 13, "--batch", 5)
    assert code == 0
    assert said.splitlines()[-1].endswith(f"4 steps of iddpm, guidance 1.5: {tmp_path}/grid.png")
    sheet = decoded_png((tmp_path / "grid.png").read_bytes())
    assert sheet.shape == (2 * 66 + 2, 10 * 66 + 2, 1)  # ten classes a row; 8 pixels eight times, gaps of 2
    samples = by_hand(recipe, list(range(13)), [*range(10), 0, 1, 2])
    expected = decoding.bytes_from_pixels(samples).numpy()
    found = np.stack([sheet[2 + 66 * (i // 10) :, 2 + 66 * (i % 10) :][4:64:8, 4:64:8] for i in range(13)])
    assert_same_images(found, expected)
    assert (sheet[68 + 2 :, 2 + 3 * 66 :] == 255).all()  # no images there


def test_a_colour_picture_comes_back_as_it_was() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decoded_png(png.encode_png(image)), image)
    sheet = png.image_grid(np.stack([np.full((100, 80, 3), value, np.uint8) for value in (1, 2, 3)]), 2)
    assert sheet.shape == (206, 166, 3)
    assert [sheet[50, 40, 0], sheet[50, 120, 0], sheet[150, 40, 0], sheet[150, 120, 0]] == [1, 2, 3, 255]


def test_a_reader_of_pictures_reads_it() -> None:
    reader = pytest.importorskip("PIL.Image", reason="a second reader of PNG files; ours stands above")
    import io

    image = np.random.default_rng(1).integers(0, 256, (9, 4, 3), np.uint8)
    assert np.array_equal(np.asarray(reader.open(io.BytesIO(png.encode_png(image)))), image)
    grey = np.asarray(reader.open(io.BytesIO(png.encode_png(image[:, :, :1]))))
    assert np.array_equal(grey, image[:, :, 0])


def test_the_time_left_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageProgress, "EVERY_S", 0.0)
    _, said = run("--out", tmp_path / "a.png", "--count", 4, "--batch", 2)
    lines = said.splitlines()[:-1]
    assert len(lines) == 8
    assert lines[0].startswith("0 of 4 images, step 1 of 4, ") and lines[0].endswith(" s left")
    assert lines[-1] == "2 of 4 images, step 4 of 4, 0 s left"


# ---- which image comes out ----


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_image_is_the_same_at_any_batch_size(recipe: images.Recipe, batch: int) -> None:
    made = samplers.create("iddpm", 4)
    with open_engine(recipe, batch, "cpu", None) as step:
        found = list(images.sample(recipe, step, made, range(2, 9), batch, "cpu", lambda finished, step: None))
    assert [number for done in found for number in done.numbers] == list(range(2, 9))
    assert [label for done in found for label in done.labels] == list(range(2, 9))
    samples = torch.cat([done.samples for done in found])
    expected = by_hand(recipe, list(range(2, 9)), list(range(2, 9)))
    assert_same_images(samples.numpy(), expected.numpy())


def test_every_part_of_a_recipe_changes_the_images(recipe: images.Recipe) -> None:
    def first(recipe: images.Recipe) -> torch.Tensor:
        made = samplers.create(recipe.sampler, recipe.steps)
        with open_engine(recipe, 2, "cpu", None) as step:
            return next(images.sample(recipe, step, made, [0, 1], 2, "cpu", lambda finished, step: None)).samples

    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"labels": (3,)},
        {"cfg_scale": 1.0},
        {"steps": 5},
        {"sampler": "ddim"},
        {"precision": "bf16"},
    ]
    found = [first(recipe)] + [first(replace(recipe, **change)) for change in changes]
    for i, a in enumerate(found):
        assert a.isfinite().all() and a.dtype == torch.float32
        assert all((a - b).abs().max() > 1e-4 for b in found[:i])
    # The second image has its own noise too, under the same class.
    assert (found[2][0] - found[2][1]).abs().max() > 0.1


def test_random_labels_belong_to_the_images(recipe: images.Recipe) -> None:
    free = replace(recipe, labels=None)
    drawn = images.labels_of(free, range(50))
    assert drawn[20:30] == images.labels_of(free, range(20, 30)) and len(set(drawn)) == 10


# ---- files for an FID ----


def stored(path: Path) -> tuple[NDArray[Any], list[int]]:
    with np.load(path) as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        return arrays["arr_0"], arrays["arr_1"].tolist()


@pytest.fixture(scope="module")
def whole(recipe: images.Recipe) -> tuple[torch.Tensor, list[int]]:
    """The samples and labels of the runs below."""
    free = replace(recipe, labels=None)
    labels = images.labels_of(free, range(11))
    return by_hand(free, list(range(11)), labels), labels


def test_a_file_in_the_layout_of_adm(run: Run, tmp_path: Path, whole: tuple[torch.Tensor, list[int]]) -> None:
    code, said = run("--npz", tmp_path / "a.npz", "--count", 11, "--batch", 4)
    assert code == 0 and said.splitlines()[-1] == f"{tmp_path}/a.npz: all 11 images are there"
    found, labels = stored(tmp_path / "a.npz")
    assert found.dtype == np.uint8 and found.shape == (11, 8, 8, 3) and labels == whole[1]
    expected = decoding.bytes_from_pixels(whole[0]).numpy()
    assert_same_images(found, np.repeat(expected, 3, axis=3))
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "a.npz.json"]
    assert json.loads((tmp_path / "a.npz.json").read_text("utf-8"))["count"] == 11
    before = (tmp_path / "a.npz").stat().st_mtime_ns
    assert run("--npz", tmp_path / "a.npz", "--count", 11)[0] == 0  # done already
    assert (tmp_path / "a.npz").stat().st_mtime_ns == before
    code, said = run("--npz", tmp_path / "a.npz", "--count", 11, "--seed", 1)
    assert code == 2 and "a.npz already exists with a different recipe: seed is 0, not 1" in said


def test_latents_as_they_are(run: Run, tmp_path: Path, whole: tuple[torch.Tensor, list[int]]) -> None:
    assert run("--npz", tmp_path / "a.npz", "--count", 11, "--batch", 4, "--latents")[0] == 0
    found, labels = stored(tmp_path / "a.npz")
    assert found.dtype == np.float32 and labels == whole[1]
    assert_same_images(found, whole[0].numpy())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_share_the_work(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: tuple[torch.Tensor, list[int]],
    order: tuple[int, ...],
) -> None:
    """Whoever is last puts the parts together; another batch size in each changes nothing."""
    monkeypatch.setattr(shards, "SHARD", 3)
    monkeypatch.setenv("WORLD_SIZE", "3")
    args = ("--npz", tmp_path / "a.npz", "--count", 11, "--latents")
    for rank in order:
        assert not (tmp_path / "a.npz").exists()
        monkeypatch.setenv("RANK", str(rank))
        code, said = run(*args, "--batch", rank + 1)
        assert code == 0
        whose = "all 11 images are there" if rank == order[-1] else "this process is done, others still have parts"
        assert whose in said
    found, labels = stored(tmp_path / "a.npz")
    assert_same_images(found, whole[0].numpy())
    assert labels == whole[1]
    assert run(*args)[0] == 0  # a process that is started again finds all done


def test_an_interrupted_run_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[torch.Tensor, list[int]]
) -> None:
    monkeypatch.setattr(shards, "SHARD", 3)
    args = ("--npz", tmp_path / "a.npz", "--count", 11, "--batch", 4, "--latents")
    update = ImageProgress.update

    def interrupt(self: Any, finished: int, step: int) -> None:
        if (finished, step) == (8, 2):
            raise KeyboardInterrupt
        update(self, finished, step)

    monkeypatch.setattr(ImageProgress, "update", interrupt)
    assert run(*args)[0] == cli.INTERRUPTED
    parts = tmp_path / "a.npz.parts"
    held = {file.name: file.read_bytes() for file in parts.glob("*.npz")}
    assert sorted(held) == ["000000000.npz", "000000003.npz"]  # 8 images are two parts of 3, and 2 lost
    monkeypatch.setattr(ImageProgress, "update", update)
    code, said = run(*args, "--seed", 5)
    assert code == 2 and ".parts already exists with a different recipe: seed is 0, not 5" in said
    code, said = run(*args)
    assert code == 0 and "5 images in " in said  # those of the parts that were not there
    found, labels = stored(tmp_path / "a.npz")
    assert_same_images(found, whole[0].numpy())
    assert labels == whole[1]


KILLED_IN_THE_FOURTH_PART = """
import os, signal, sys
from convbench import cli, files
from convbench.sampling import shards
replace, done = os.replace, []
def replaced(source, target):
    if str(target).endswith(".npz"):
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
    replace(source, target)
os.replace, shards.SHARD = replaced, 2
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL when a part is written and does not have its name yet; the same images as without it."""
    monkeypatch.setattr(shards, "SHARD", 2)
    args = ["--npz", str(tmp_path / "a.npz"), "--count", "80", "--batch", "2", "--latents"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_FOURTH_PART, "sample", *RANDOM, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    parts = tmp_path / "a.npz.parts"
    held = {file.name: file.stat().st_mtime_ns for file in parts.glob("0*.npz")}
    assert len(held) == 3
    code, said = run(*args[:-1], "--latents")
    assert code == 0 and f"{80 - 2 * len(held)} images in " in said
    found, labels = stored(tmp_path / "a.npz")
    assert run("--npz", tmp_path / "b.npz", "--count", 80, "--batch", 40, "--latents")[0] == 0
    expected, expected_labels = stored(tmp_path / "b.npz")
    assert_same_images(found, expected)
    assert labels == expected_labels


def test_the_same_images_give_the_same_bytes_on_another_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day, name in enumerate(("a", "b")):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + 86_400 * day)
        made = shards.ShardedNpz(tmp_path / f"{name}.npz", 3, {"seed": 0})
        made.begin()
        for path, numbers in made.missing(shards.World()).items():
            shards.write_shard(path, np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2), list(numbers))
        assert made.merge()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def archive(path: Path, packed: bool = False, **arrays: Any) -> None:
    with path.open("wb") as file:
        (np.savez_compressed if packed else np.savez)(file, allow_pickle=True, **arrays)


IMAGES, LABELS = np.zeros((3, 1, 2, 2), np.uint8), np.arange(3)
FOREIGN: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "a torn archive": lambda path: (archive(path, arr_0=IMAGES, arr_1=LABELS), os.truncate(path, 300)),
    "packed": lambda path: archive(path, packed=True, arr_0=np.zeros((3, 1, 4000, 4000), np.uint8), arr_1=LABELS),
    "objects": lambda path: archive(path, arr_0=IMAGES, arr_1=np.array([{}, [], ()], dtype=object)),
    "no labels": lambda path: archive(path, arr_0=IMAGES),
    "fewer images": lambda path: archive(path, arr_0=IMAGES[:2], arr_1=LABELS[:2]),
    "fewer labels": lambda path: archive(path, arr_0=IMAGES, arr_1=LABELS[:2]),
    "another type": lambda path: archive(path, arr_0=IMAGES.astype(np.float64), arr_1=LABELS),
    "no axes": lambda path: archive(path, arr_0=np.array(5), arr_1=LABELS),
    "other sides": lambda path: archive(path, arr_0=IMAGES[..., :1], arr_1=LABELS),
    "a claim": lambda path: (
        archive(path, arr_0=IMAGES, arr_1=LABELS),
        path.write_bytes(path.read_bytes().replace(b"(3, 1, 2, 2)", b"(3,9**9,2,2)")),
    ),
    "a large claim": lambda path: (
        archive(path, arr_0=IMAGES, arr_1=LABELS),
        path.write_bytes(path.read_bytes().replace(b"(3, 1, 2, 2), ", b"(3, 99999999,)")),
    ),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_part_of_somebody_else_is_named_and_not_merged(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 3)
    made = shards.ShardedNpz(tmp_path / "a.npz", 6, {"seed": 0})
    made.begin()
    for path, numbers in made.missing(shards.World()).items():
        shards.write_shard(path, IMAGES, list(numbers))
    part = list(made.shards())[number]
    part.unlink()
    FOREIGN[kind](part)
    with pytest.raises(UsageError, match=r"00000\d\.npz does not hold the images of this run: remove it") as caught:
        made.merge()
    if kind != "other sides":  # than those of the first one, whichever is wrong
        assert part.name in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.npz.json", "a.npz.parts"]
    part.unlink(missing_ok=True)
    shards.write_shard(part, IMAGES, [0, 1, 2])
    assert made.merge() and np.load(tmp_path / "a.npz")["arr_0"].shape == (6, 1, 2, 2)


@pytest.mark.parametrize("content", ["[1]", "5", "{", "[" * 100_000, " " * 2**20 + "{}", None])
def test_a_recipe_of_another_kind_is_one_line(content: str | None, tmp_path: Path) -> None:
    made = shards.ShardedNpz(tmp_path / "a.npz", 3, {"seed": 0})
    made.begin()
    recipe = made.parts / "recipe.json"
    recipe.unlink()
    if content is None:
        os.mkfifo(recipe)
    else:
        recipe.write_text(content)
    with pytest.raises(UsageError, match=r"already exists with a different recipe: seed is unknown, not 0"):
        made.begin()


def test_a_lock_is_taken_through_no_link_and_changes_no_file(tmp_path: Path) -> None:
    """It was opened for writing, which emptied whatever somebody had linked there."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "a.npz.parts").mkdir()
    (tmp_path / "a.npz.parts" / "lock").symlink_to(mine)
    with pytest.raises(UsageError, match=r"^cannot write .*a\.npz\.parts: Too many levels of symbolic links$"):
        shards.ShardedNpz(tmp_path / "a.npz", 3, {"seed": 0}).begin()
    assert mine.read_text() == "mine"
    with files.locked(mine), pytest.raises(BlockingIOError), files.locked(mine, wait=False):
        pass
    with files.locked(mine, wait=False):
        assert mine.read_text() == "mine"


@pytest.mark.parametrize(("rank", "size"), [("1", "1"), ("-1", "2"), ("x", "2"), ("0", "0"), ("0", "")])
def test_a_place_that_cannot_be(rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match="are invalid: need 0 <= RANK < WORLD_SIZE"):
        shards.World.of_torchrun()


# ---- latents and their decoder ----


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one with random weights, in the layout of the real ones."""
    diffusers = pytest.importorskip("diffusers", reason="the extra 'sample' is not installed")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    model = diffusers.AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4, **blocks)
    folder = tmp_path_factory.mktemp("vae")
    model.save_pretrained(folder)
    return folder


def test_latents_are_decoded(autoencoder: Path) -> None:
    import diffusers

    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = decoding.create_decoder(find("dico_s").signature, str(autoencoder), "cpu")(x)
        expected = diffusers.AutoencoderKL.from_pretrained(autoencoder).decode(x / 0.18215).sample
    assert found.shape == (2, 3, 32, 32) and found.std() > 0.01
    assert torch.equal(found, expected)


def test_pixels_are_bytes_as_the_papers_scripts_make_them() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]).reshape(1, 1, 1, 6)
    assert decoding.bytes_from_pixels(values).flatten().tolist() == [0, 0, 128, 191, 255, 255]
    assert decoding.bytes_from_pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def test_an_autoencoder_that_cannot_be_loaded(autoencoder: Path, tmp_path: Path) -> None:
    latents = find("dico_s").signature
    with pytest.raises(UsageError, match=r"the samples are latents: give --vae .* or keep them"):
        decoding.create_decoder(latents, None, "cpu")
    with pytest.raises(UsageError, match="no autoencoder at"):
        decoding.create_decoder(latents, str(tmp_path), "cpu")
    (tmp_path / "config.json").write_text((autoencoder / "config.json").read_text("utf-8"), "utf-8")
    with pytest.raises(UsageError, match="cannot be loaded: "):
        decoding.create_decoder(latents, str(tmp_path), "cpu")
    torch.save({"decoder": 1}, tmp_path / "diffusion_pytorch_model.bin")  # a pickle, which is not opened
    with pytest.raises(UsageError, match="cannot be loaded: "):
        decoding.create_decoder(latents, str(tmp_path), "cpu")


def test_decoding_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"needs diffusers: pip install 'convbench\[sample\]'; or keep them"):
        decoding.create_decoder(find("dico_s").signature, "somewhere", "cpu")
    with pytest.raises(UsageError, match=r"pip install 'convbench\[sample\]'"):
        samplers.create("dpm-solver++", 20)


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "specify exactly one of --out (grid.png) or --npz (FILE)"),
        (["--out", "a.png", "--npz", "a.npz"], "specify exactly one of --out"),
        (["--out", "nowhere/a.png"], "the folder nowhere does not exist"),
        (["--npz", "nowhere/a.npz"], "the folder nowhere does not exist"),
        (["--out", "a.png", "--latents"], "--latents requires --npz FILE"),
        (["--out", "a.png", "--class", "10"], "--class 10: dico_digits has the classes 0 to 9"),
        (["--out", "a.png", "--class", "3,,5"], "is not a list of classes"),
        (["--out", "a.png", "--steps", "0"], "--steps 0: must be between 1 and 1000"),
        (["--out", "a.png", "--sampler", "euler"], "predicts noise, euler needs velocity: use iddpm or ddim"),
        (["--out", "a.png", "--sampler", "idpm"], "did you mean iddpm?"),
        (["--out", "a.png", "--backend", "eger"], "did you mean eager?"),
        (["--out", "a.png", "--precision", "tf32"], "a CPU has no TF32 units"),
        (["--out", "a.png", "--res", "9"], "--res 9 is invalid for dico_digits"),
        (["--out", "a.png", "--model", "dico_digit"], "did you mean dico_digits"),
        (["--out", "a.png", "--model", "dico_s"], "the samples are latents: give --vae"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(*args)
    assert code == 2 and reason in said and len(said.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_a_schedule_that_is_not_there(run: Run) -> None:
    code, said = run("--model", "uvit_l_2", "--weights", "w.pt", "--npz", "a.npz", "--latents", random=False)
    assert code == 2 and "U-ViT was trained with a noise schedule that the samplers here do not support" in said
    with pytest.raises(UsageError, match="no decoder is known for latents of 3 channels"):
        decoding.create_decoder(replace(find("dico_s").signature, channels=3, factor=4), None, "cpu")


def test_a_model_without_shipped_weights_asks_for_some(run: Run) -> None:
    code, said = run("--model", "dico_s", "--out", "a.png", random=False)
    assert code == 2 and "convbench ships no weights of dico_s: specify --weights with" in said


# ---- drift of engines ----


def test_drift_prints_a_row_for_each_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the shipped weights: bfloat16 stays within its limit; an engine with another GELU is wrong: exit code 1."""
    pytest.importorskip("matplotlib", reason="draws the plot")
    args = ["sample", "--steps", "8", "--device", "cpu", "--format", "json"]

    def drift(*more: str) -> tuple[int, list[dict[str, Any]]]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*args, *more])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    code, rows = drift("--drift", "eager,eager/bf16", "--count", "100", "--out", str(tmp_path / "drift.png"))
    assert code == 0 and [(row["backend"], row["precision"]) for row in rows] == [("eager", "fp32"), ("eager", "bf16")]
    assert rows[0]["errors"] == [0] * 8 and rows[0]["shift"] == 0
    assert len(rows[1]["errors"]) == 8 and rows[1]["error_last"] == rows[1]["errors"][-1]
    assert 1e-4 < rows[1]["error_max"] <= rows[1]["limit"]
    assert all(row["verdict"] == "ok" and 0 <= row["recognised"] <= 1 and row["frechet"] > 0 for row in rows)
    assert rows[0]["frechet_difference"] == "same" and rows[0]["frechet_ratio"] == 1
    low, high = rows[1]["frechet_ratio_low"], rows[1]["frechet_ratio_high"]
    assert low < rows[1]["frechet_ratio"] < high and rows[1]["frechet_difference"] == quality_word(low, high)
    assert (tmp_path / "drift.png").read_bytes()[:4] == b"\x89PNG"

    code, (row,) = drift("--drift", "engines:tanh", "--count", "10")
    assert code == 1 and row["verdict"] == "wrong" and row["error_max"] > row["limit"]
    assert "recognised" not in row  # too few images for figures
    code, (row,) = drift("--drift", "eager/tf32", "--count", "10")
    assert code == 3 and row["status"] == "skipped" and "a CPU has no TF32 units" in row["reason"]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--drift", "eager/bf61"], "unknown precision 'bf61'"),
        (["--drift", "eger"], "did you mean eager?"),
        (["--drift", "eager", "--npz", "a.npz"], "--drift cannot be combined with --npz or --latents"),
    ],
)
def test_what_drift_refuses(run: Run, args: list[str], reason: str) -> None:
    code, said = run(*args)
    assert code == 2 and reason in said and len(said.splitlines()) == 1


def test_a_plot_without_its_library(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, said = run("--drift", "eager", "--out", "a.png")
    assert code == 2 and "needs matplotlib" in said
