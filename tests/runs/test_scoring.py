import numpy as np
import pytest
import torch
from commandline import call, call_json
from PIL import Image
from recorded import opened

from engine import backbones
from engine.config import Config, settings
from engine.runs import scoring

CLASSES = ("ant", "bee", "cat")
MEAN, STD = (0.45, 0.5, 0.4), (0.2, 0.3, 0.25)
BETA = 0.1


def pictures(folder, count, seed):
    """`count` pictures of each class, 16 px, and the same as an array."""
    rng = np.random.default_rng(seed)
    arrays = rng.integers(0, 256, (len(CLASSES), count, 16, 16, 3)).astype(np.uint8)
    for name, images in zip(CLASSES, arrays, strict=True):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number:04d}.png")
    return arrays


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set, a teacher's file, and a distilled set."""
    root = tmp_path_factory.mktemp("world")
    train = pictures(root / "data" / "train", 12, 0)
    pictures(root / "data" / "test", 2, 1)
    synthetic = pictures(root / "synthetic", 2, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Config().backbone.model_copy(update={"width": 8})
        model = backbones.build(config, classes=3, channels=3, image_size=16)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2.0)
                module.running_mean.normal_()
    torch.save(model.state_dict(), root / "teacher.pth")
    return root, model.double().eval(), train, synthetic


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def words(root, images, *sets):
    given = ["backbone.width=8", f"data.mean={list(MEAN)}", f"data.std={list(STD)}", f"objective.beta={BETA}"]
    flags = [word for text in (*given, *sets) for word in ("--set", text)]
    place = ["--dataset", "folder", "--data-root", root / "data", "--teacher", root / "teacher.pth"]
    return ["score", images, *place, *flags]


def independent(model, arrays):
    """Ψ, mean and Φ of every convolution's input, and CE, in float64 and in the plainest way."""
    x = (torch.from_numpy(arrays.reshape(-1, 16, 16, 3)).double() / 255 - torch.tensor(MEAN)) / torch.tensor(
        STD
    )
    labels = torch.arange(3).repeat_interleave(arrays.shape[1])
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        ce = torch.nn.functional.cross_entropy(model(x.permute(0, 3, 1, 2)), labels).item()
    for hook in hooks:
        hook.remove()
    found = []
    for features in seen:
        rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).numpy()
        onehot = np.eye(3)[labels]
        phi = features.mean(dim=(2, 3)).numpy().T @ onehot / len(labels)
        found.append((np.atleast_2d(np.cov(rows.T, bias=True)), rows.mean(0), phi))
    return found, ce


FILTERS = {
    "identity": lambda psi: np.eye(len(psi)),
    "lambda": lambda psi: psi,
    "ridge": lambda psi: np.linalg.inv(psi + BETA * np.eye(len(psi))),
}


def expected(real, synthetic, filter, signal):
    def side(psi, mean, phi):
        if filter == "diagonal":
            return np.diag(psi)
        matrix = FILTERS[filter](psi)
        return {"none": matrix, "mean": matrix @ mean, "class": matrix @ phi}[signal]

    return np.linalg.norm(side(*real) - side(*synthetic))


@pytest.mark.parametrize("signal", ["none", "class", "mean"])
def test_terms_equal_an_independent_float64_evaluation(capsys, world, signal):
    root, model, train, synthetic = world
    filters = ["lambda", "ridge"] + (["diagonal"] if signal == "none" else ["identity"])
    terms = ", ".join(f"{{filter: {name}, signal: {signal}}}" for name in filters)
    document = call_json(
        capsys, "score", *words(root, root / "synthetic", f"objective.terms=[{terms}]"), "--quiet"
    )
    (real, _), (ours, ce) = independent(model, train), independent(model, synthetic)
    assert document["ce"] == pytest.approx(ce, rel=1e-5)
    assert len(document["layers"]) == len(real) == 3
    for layer, *sides in zip(document["layers"], real, ours, strict=True):
        assert [(term["filter"], term["signal"]) for term in layer["terms"]] == [(f, signal) for f in filters]
        for term in layer["terms"]:
            wanted = expected(*sides, term["filter"], term["signal"])
            assert term["value"] == pytest.approx(wanted, rel=1e-4)
        for name, side in zip(("real", "synthetic"), sides, strict=True):
            spectrum = np.linalg.eigvalsh(side[0])[::-1]
            assert layer[f"eigenvalues_{name}"] == pytest.approx(spectrum, rel=1e-4, abs=1e-6)


def test_the_training_set_itself_scores_zero(capsys, world):
    root = world[0]
    document = call_json(capsys, "score", *words(root, root / "data" / "train"))
    assert document["images"]["count"] == 36
    assert all(term["value"] < 1e-6 for layer in document["layers"] for term in layer["terms"])


@pytest.mark.parametrize("centre", ["set", "image"])
def test_gradients_are_those_of_the_centre_that_is_set(capsys, world, monkeypatch, centre):
    centres = []

    class Spy(scoring.Observer):
        def __call__(self, view_MCHW):
            centres.append(self.centre)
            return super().__call__(view_MCHW)

    monkeypatch.setattr(scoring, "Observer", Spy)
    root = world[0]
    given = words(root, root / "synthetic", f"statistics.centre={centre}")
    call_json(capsys, "score", *given, "--gradients")
    assert centres == [centre]


def test_one_picture_and_its_class(capsys, world, tmp_path):
    root = world[0]
    picture = root / "synthetic" / "bee" / "0001.png"
    inside = call_json(capsys, "score", *words(root, picture))
    lone = tmp_path / "x.png"
    lone.write_bytes(picture.read_bytes())
    error = call_json(capsys, "error", *words(root, lone), code=2)["error"]
    assert "class" in error["message"]
    assert "--class" in error["hint"]
    told = call_json(capsys, "score", *words(root, lone), "--class", "bee")
    assert told["layers"] == inside["layers"]
    assert told["ce"] == inside["ce"]


def test_a_run_is_scored_by_its_name(capsys, world, tmp_path, monkeypatch):
    root = world[0]
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    opened(tmp_path / "runs" / "mine").close("stopped")
    (tmp_path / "runs" / "mine" / "images").symlink_to(root / "synthetic")
    named = call_json(capsys, "score", *words(root, "mine"))
    assert named["layers"] == call_json(capsys, "score", *words(root, root / "synthetic"))["layers"]
    assert named["images"] == {"path": str(tmp_path / "runs" / "mine"), "count": 6}
    error = call_json(capsys, "error", *words(root, "yours"), code=2)["error"]
    assert "yours does not exist" in error["message"]


def test_a_run_is_scored_with_its_own_settings_and_teacher(capsys, world, tmp_path):
    root = world[0]
    command = words(root, root / "synthetic")
    given = {"data.name": "folder", "data.root": root / "data", "backbone.teacher": root / "teacher.pth"}
    sets = [word for word in command if isinstance(word, str) and "=" in word]
    config = settings.resolve(base=None, sets=sets, overrides=given).config
    opened(tmp_path / "run", text=settings.to_yaml(config)).close("stopped")
    (tmp_path / "run" / "images").symlink_to(root / "synthetic")
    own = call_json(capsys, "score", "score", tmp_path / "run")
    expected = call_json(capsys, "score", *command)
    assert (own["layers"], own["teacher"]) == (expected["layers"], expected["teacher"])
    changed = call_json(capsys, "score", "score", tmp_path / "run", "--set", "objective.beta=3")
    assert changed["beta"] == 3


def test_the_table_has_a_line_for_each_layer(capsys, world):
    root = world[0]
    out, err = call(capsys, *words(root, root / "synthetic"))
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        "layer",
        *(f"layers.conv.{i}" for i in range(3)),
    ]
    assert "statistics: 36 images" in err


def test_gradients_equal_an_independent_float64_evaluation(capsys, world):
    """Expected: covariances of unfolded features by torch.cov, and the ridge by a general inverse."""
    root, model, train, synthetic = world
    (real, _) = independent(model, train)
    x = (
        torch.from_numpy(synthetic.reshape(-1, 16, 16, 3)).double() / 255 - torch.tensor(MEAN)
    ) / torch.tensor(STD)
    x = x.permute(0, 3, 1, 2).requires_grad_()
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    ce = torch.nn.functional.cross_entropy(model(x), torch.arange(3).repeat_interleave(2))
    for hook in hooks:
        hook.remove()
    terms = 0
    for features, (psi, mean, _) in zip(seen, real, strict=True):
        rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        eye = BETA * torch.eye(rows.shape[1], dtype=torch.float64)
        real_ridge = torch.linalg.inv(torch.from_numpy(psi) + eye)
        ours = torch.linalg.inv(torch.cov(rows.T, correction=0).reshape(eye.shape) + eye)
        terms = terms + 0.1 * (ours - real_ridge).norm()
        terms = terms + 0.1 * (ours @ rows.mean(0) - real_ridge @ torch.from_numpy(mean)).norm()
    wanted = [float(torch.autograd.grad(part, x, retain_graph=True)[0].norm()) for part in (terms, ce)]
    for size in ("null", "4"):
        flags = ("--gradients", "--set", f"recover.micro_batch={size}")
        found = call_json(capsys, "score", *words(root, root / "synthetic"), *flags)["gradients"]
        assert [found["terms"], found["ce"]] == pytest.approx(wanted, rel=1e-3)
        assert found["ratio"] == pytest.approx(wanted[0] / wanted[1], rel=1e-3)
    out, _ = call(capsys, *words(root, root / "synthetic"), "--gradients")
    assert f"ratio {found['ratio']:.3g}" in out


def test_batchnorm_taps(capsys, world):
    root = world[0]
    document = call_json(capsys, "score", *words(root, root / "synthetic", "objective=sre2l"))
    assert [layer["eigenvalues_real"] for layer in document["layers"]] == [None] * 3
    assert document["layers"][0]["name"] == "layers.norm.0"


def test_folders_that_are_no_class_are_named(capsys, world, tmp_path):
    root = world[0]
    (tmp_path / "set" / "dog").mkdir(parents=True)
    error = call_json(capsys, "error", *words(root, tmp_path / "set"), code=2)["error"]
    assert "dog" in error["message"]
    assert "ant, bee, cat" in error["hint"]


def test_an_unreadable_picture_is_named(capsys, world, tmp_path):
    (tmp_path / "set" / "bee").mkdir(parents=True)
    (tmp_path / "set" / "bee" / "torn.png").write_bytes(b"\x89PNG\r\n")
    error = call_json(capsys, "error", *words(world[0], tmp_path / "set"), code=2)["error"]
    assert "bee/torn.png" in error["message"]
