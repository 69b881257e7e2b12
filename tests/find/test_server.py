"""The page's server: what it gives, and what it refuses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from starlette.testclient import TestClient
from starlette.types import Message

from m3video.config import BrowseConfig
from m3video.errors import ConfigError, VideoError
from m3video.find.browse import listen
from m3video.find.embed import embed
from m3video.find.features import open_features
from m3video.find.map import choose_map, clusters, pca_places, umap_places, within
from m3video.find.preview import FRAMES, HEIGHT, WIDTH, strip
from m3video.find.server import PAGES, Browser
from m3video.video import shards
from m3video.video.pack import pack
from m3video.video.shards import read_video
from tests.find.conftest import config


@pytest.fixture(scope="module")
def client(clips_file: Path) -> Iterator[TestClient]:
    config = BrowseConfig(features=clips_file, clusters=3)
    app = Browser(open_features(clips_file), config).app()
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def test_rows_tell_of_every_row(client: TestClient, clips_file: Path) -> None:
    file = open_features(clips_file)
    rows = client.get("/rows").json()
    paths = [rows["folder"] + rows["videos"][video] for video in rows["video"]]
    assert paths == file.paths
    assert [rows["labels"][label] for label in rows["label"]] == file.labels
    assert set(rows["cluster"]) == {0, 1, 2}
    assert rows["unreadable"] == 1


def test_neighbours_may_be_of_other_videos_only(client: TestClient, clips_file: Path) -> None:
    video = client.get("/rows").json()["video"]
    row = len(video) - 4
    near = client.get(f"/near/{row}").json()
    assert row not in near["rows"]
    assert near["cosine"] == sorted(near["cosine"], reverse=True)
    assert {video[other] for other in near["rows"][:3]} == {video[row]}
    others = client.get(f"/near/{row}?others=1").json()["rows"]
    assert video[row] not in {video[other] for other in others}


def test_a_preview_is_the_clip_s_frames_side_by_side(client: TestClient) -> None:
    answer = client.get("/preview/0")
    assert answer.headers["content-type"] == "image/webp"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (HEIGHT, FRAMES * WIDTH, 3)
    assert picture.std() > 10


def test_a_film_is_given_in_ranges(client: TestClient, clips_file: Path) -> None:
    data = Path(open_features(clips_file).paths[0]).read_bytes()
    whole = client.get("/film/0")
    assert whole.content == data
    part = client.get("/film/0", headers={"range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == data[10:20]
    assert client.get("/film/0", headers={"range": "bytes=99999999-"}).status_code == 416


@pytest.fixture(scope="module")
def shards_file(videos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of videos in a shard."""
    folder = tmp_path_factory.mktemp("shards")
    pack(videos, folder / "shards", workers=0)
    return embed(config(folder / "shards", model, folder / "shards.parquet")).out


def browsing(features: Path) -> TestClient:
    app = Browser(open_features(features), BrowseConfig(features=features, clusters=2)).app()
    return TestClient(app, base_url="http://127.0.0.1:8000")


def test_films_and_previews_of_shards_are_given(shards_file: Path) -> None:
    data = read_video(Path(open_features(shards_file).paths[0]))
    assert data is not None
    with browsing(shards_file) as client:
        whole = client.get("/film/0")
        assert (whole.status_code, whole.content) == (200, data)
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.headers["accept-ranges"] == "bytes"
        for asked, start, end in (
            *(("10-19", 10, 20), ("0-", 0, len(data)), ("-7", len(data) - 7, len(data))),
            *(("5-99999999", 5, len(data)), ("-99999999", 0, len(data))),
        ):
            part = client.get("/film/0", headers={"range": f"bytes={asked}"})
            assert (part.status_code, part.content) == (206, data[start:end])
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
        for asked in ("99999999-", "9-3", "-0"):
            assert client.get("/film/0", headers={"range": f"bytes={asked}"}).status_code == 416
        assert client.get("/preview/0").headers["content-type"] == "image/webp"


def test_nothing_at_a_url_is_asked_for(
    shards_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shards, "_filesystem", asked.append)
    table = pq.read_table(shards_file)
    names = ["http://10.0.0.1/x.tar::512+9::a.mp4"] * len(table)
    column = table.schema.get_field_index("path")
    pq.write_table(table.set_column(column, "path", pa.array(names)), tmp_path / "f.parquet")
    with browsing(tmp_path / "f.parquet") as client:
        for path in ("/film/0", "/preview/0"):
            answer = client.get(path)
            assert (answer.status_code, "at a URL are not shown" in answer.text) == (404, True)
    assert asked == []


@pytest.mark.parametrize(
    "path",
    [
        *("/film/9999", "/film/-1", "/film/%2e%2e%2fpage.js", "/film/0/x", "/preview/9999"),
        *("/%2e%2e/%2e%2e/etc/passwd", "/..%5c..%5cetc%5cpasswd", "/%252e%252e/etc/passwd"),
        *("//etc/passwd", "/film//etc/passwd", "/film/%2fetc%2fpasswd", "/film/0%00.mp4"),
        *("/film/0x0", "/film/٣", "/server.py"),
        *("/near/9999", "/film/..%2f..%2fetc%2fpasswd", "/page/index.html", "/%2fetc/passwd"),
    ],
)
def test_nothing_but_rows_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/..", "/../../etc/passwd", "/film/../../server.py", "etc/passwd"]
)
def test_paths_that_clients_would_tidy_up_are_not_found(client: TestClient, path: str) -> None:
    """As a socket may send them."""
    met: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        met.append(message.get("status", 0))

    headers = [(b"host", b"127.0.0.1:8000")]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(client.app({**scope, "raw_path": path.encode()}, receive, send))
    assert met[0] == 404


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil"),
        *("0.0.0.0", "[::1]"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/rows", "/film/0", "/preview/0", "/near/0", "/map"])
def test_other_hosts_are_refused(client: TestClient, host: str, path: str) -> None:
    assert client.get(path, headers={"host": host}).status_code == 400


def test_localhost_is_this_machine_and_nothing_can_be_written(client: TestClient) -> None:
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200
    assert client.post("/rows").status_code == 405


@pytest.mark.parametrize("path", [*PAGES, "/rows", "/film/0", "/preview/0", "/nothing"])
def test_every_answer_is_guarded(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for path in PAGES:
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text


def test_maps_and_clusters_keep_groups_apart() -> None:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 25)
    values = (random.normal(0, 9, (4, 16))[group] + random.normal(0, 1, (100, 16))).astype("f4")
    assert adjusted_rand_score(group, clusters(values, 4)) == 1
    oracle = within(PCA(2).fit_transform(values).astype("f4"))
    ours = pca_places(values)
    for axis in (0, 1):
        near = np.abs(ours[:, axis] - oracle[:, axis]).max() < 1e-3
        turned = np.abs(1 - ours[:, axis] - oracle[:, axis]).max() < 1e-3
        assert near or turned
    assert choose_map("auto", 10) == "pca"
    assert choose_map("auto", 1000) == "umap"
    with pytest.raises(ConfigError, match="too few"):
        choose_map("umap", 3)


@pytest.mark.slow
def test_umap_keeps_groups_apart() -> None:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 25)
    values = (random.normal(0, 9, (4, 16))[group] + random.normal(0, 1, (100, 16))).astype("f4")
    assert adjusted_rand_score(group, clusters(umap_places(values), 4)) == 1


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows_have_places(rows: int) -> None:
    places = pca_places(np.eye(rows, 8, dtype=np.float32))
    assert places.shape == (rows, 2)
    assert ((places >= 0) & (places <= 1)).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.mp4", "video/mp4"), ("a.html", "application/octet-stream"), ("a.js", "application/oc")],
)
def test_a_row_is_never_a_page_or_a_script(
    clips_file: Path, tmp_path: Path, name: str, kind: str
) -> None:
    file = open_features(clips_file)
    (tmp_path / name).write_bytes(Path(file.paths[0]).read_bytes())
    file.paths[0] = str(tmp_path / name)
    config = BrowseConfig(features=clips_file, clusters=3, map="pca")
    with TestClient(Browser(file, config).app(), base_url="http://127.0.0.1:8000") as client:
        answer = client.get("/film/0")
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_rows_that_are_no_videos_are_not_given(clips_file: Path, tmp_path: Path) -> None:
    """A features file of unknown origin may name any file of this machine."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (tmp_path / "link.mp4").symlink_to(secret)
    listed = open_features(clips_file).paths[0]
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {listed}\n")
    (tmp_path / "page.mp4").write_text("<script>alert(1)</script>")
    os.mkfifo(tmp_path / "fifo.mp4")
    named = [secret, *(tmp_path / f"{n}.mp4" for n in ("link", "list", "page", "fifo")), tmp_path]
    named += [Path("/etc/passwd"), Path("/dev/zero"), tmp_path / "gone.mp4", Path("a\0b")]
    file = open_features(clips_file)
    file.paths[: len(named)] = map(str, named)
    config = BrowseConfig(features=clips_file, clusters=3, map="pca")
    with TestClient(Browser(file, config).app(), base_url="http://127.0.0.1:8000") as client:
        for row in range(len(named)):
            for kind in ("film", "preview"):
                answer = client.get(f"/{kind}/{row}")
                assert answer.status_code == 404, (kind, named[row])
                assert "secret" not in answer.text


def test_a_file_that_is_gone_has_no_preview(tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        strip(str(tmp_path / "gone.mp4"), 0, 1)


def test_a_port_that_is_taken_is_named() -> None:
    first = listen(0)
    with pytest.raises(ConfigError, match=f"port {first.getsockname()[1]}: "):
        listen(first.getsockname()[1])
    assert first.getsockname()[0] == "127.0.0.1"
    first.close()
