"""The memory in which the worst images that are allowed are decoded."""

import json
import sys

import pytest
from jpeg_contract.settings import Limits
from support import ROOT, run

# Eight images at once on four threads; prints the estimate of one and how far the process grew, in bytes.
_SCRIPT = """
import io, json, resource, sys
from PIL import Image
from jpeg_contract.geometry import Geometry
from jpeg_contract.settings import Limits, PreprocessSettings
from jpeg_preprocess import Preprocessor

decoder, mode, side, progressive = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
made = io.BytesIO()
Image.new(mode, (64, 64)).resize((side, side)).save(made, "JPEG", quality=50, progressive=progressive, subsampling=0)
limits = Limits(max_decode_ms=20_000)
settings = PreprocessSettings(Geometry(256, (224, 224)), decoder=decoder, limits=limits, threads=4)
preprocess = Preprocessor(settings)
preprocess([made.getvalue()[:200]])
with open("/proc/self/status") as status:
    before = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # the peak so far, in which the image was made, does not count: proc(5)
_, errors = preprocess([made.getvalue()] * 8)
assert errors == [None] * 8, errors
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps({"estimate": preprocess.cost(made.getvalue()).memory_bytes, "grown": peak - before}))
"""


@pytest.mark.parametrize(
    ("decoder", "mode", "side", "progressive"),
    [
        ("full", "RGB", 10_000, False),
        ("full", "CMYK", 5_500, True),
        ("scaled", "RGB", 8_500, True),
        ("scaled", "CMYK", 7_500, True),
    ],
)
def test_the_worst_images_stay_in_the_limit(decoder, mode, side, progressive):
    done = run(sys.executable, "-c", _SCRIPT, decoder, mode, str(side), str(progressive), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    limit = Limits().max_decode_mib * 2**20
    # Large enough that two at once would be too much.
    assert limit / 2 < found["estimate"] <= limit
    # The estimate holds, and what the allocator keeps beside it.
    assert found["grown"] < 1.2 * limit


# Prints the pages that the kernel hands out for one photo, once the process has decoded some.
_FAULTS = """
import io, resource, sys
from PIL import Image
from jpeg_contract.geometry import Geometry
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor

made = io.BytesIO()
Image.effect_noise((640, 480), 50).convert("RGB").save(made, "JPEG")
preprocess = Preprocessor(PreprocessSettings(Geometry(256, (224, 224)), threads=2))
batch = [made.getvalue()] * int(sys.argv[1])
for _ in range(3):
    preprocess(batch)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    preprocess(batch)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20 / len(batch))
"""


@pytest.mark.parametrize("images", [1, 8])
def test_the_memory_of_a_photo_is_kept_for_the_next_one(images):
    done = run(sys.executable, "-c", _FAULTS, str(images), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    # Its pixels alone are 300 pages.
    assert float(done.stdout) < 20
