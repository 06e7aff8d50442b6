"""The switches of an image encoder: what each changes, and what is refused."""

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from torch import Tensor, nn

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.sam.encoder import EncoderSwitches


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(pixels)
        return features


PIXELS = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_autocast_and_memory_format_do_what_they_say() -> None:
    encoder = Encoder()
    expected = encoder(PIXELS)
    plain = EncoderSwitches(encoder, channels_last=False).run(encoder, PIXELS)
    assert torch.equal(plain, expected)
    weight = encoder.get_parameter("layers.0.weight")
    assert not weight.is_contiguous(memory_format=torch.channels_last)
    switches = EncoderSwitches(encoder, channels_last=True)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(switches.run(encoder, PIXELS), expected, atol=1e-6, rtol=1e-5)
    reduced = EncoderSwitches(encoder, dtype="bfloat16").run(encoder, PIXELS)
    assert reduced.dtype == torch.bfloat16
    difference = (reduced.float() - expected).abs().max() / expected.abs().max()
    assert 1e-4 < difference < 0.05
    assert encoder(PIXELS).dtype == torch.float32  # autocast ended


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SAM\.DTYPE 'float16' needs a GPU"):
        EncoderSwitches(Encoder(), dtype="float16")
    with pytest.raises(ValueError, match=r"SAM\.DTYPE must be one of .*'int8'"):
        EncoderSwitches(Encoder(), dtype="int8")


@torch.no_grad()
def test_compilation_runs_or_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With backends of the test's own: the real one takes a minute to start."""
    calls: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        calls.append(len(inputs))
        return graph.forward

    def failing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    def compile_with(backend: Any) -> EncoderSwitches:
        def compile_module(module: nn.Module) -> None:
            module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

        monkeypatch.setattr(nn.Module, "compile", compile_module)
        return EncoderSwitches(encoder, compile=True, channels_last=False)

    encoder = Encoder()
    expected = encoder(PIXELS)
    assert torch.equal(compile_with(counting).run(encoder, PIXELS), expected)
    assert len(calls) == 1
    encoder = Encoder()
    with pytest.raises(RuntimeError, match=r"SAM\.COMPILE True.*C\+\+ compiler.*install g\+\+"):
        compile_with(failing).run(encoder, PIXELS)


def test_other_errors_of_an_encoder_are_not_hidden() -> None:
    encoder = Encoder()
    with pytest.raises(RuntimeError, match="expected input"):
        EncoderSwitches(encoder).run(encoder, PIXELS[:, :1])


@pytest.mark.assets
def test_cfg_sets_the_switches(mobile_sam: Any) -> None:
    from weaksam_d2.sam import SegmentAnything

    cfg = get_cfg()
    add_weaksam_config(cfg)
    assert (cfg.WEAKSAM.SAM.DTYPE, cfg.WEAKSAM.SAM.COMPILE) == ("float32", False)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(
        ["WEAKSAM.SAM.ARCH", "vit_t", "WEAKSAM.SAM.INPUT_SIZE", 64, "WEAKSAM.SAM.WEIGHTS"]
        + [str(mobile_sam), "WEAKSAM.SAM.CHANNELS_LAST", False]
    )
    backend: Any = SegmentAnything(cfg)
    weight = backend.model.image_encoder.neck[2].weight
    assert weight.is_contiguous()
    cfg.WEAKSAM.SAM.DTYPE = "float16"
    with pytest.raises(ValueError, match="needs a GPU"):
        SegmentAnything(cfg)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_float16_and_compilation_on_a_gpu() -> None:
    encoder, pixels = Encoder().cuda(), PIXELS.cuda()
    expected = encoder(pixels)
    for dtype, tolerance in (("float16", 5e-3), ("bfloat16", 5e-2)):
        switches = EncoderSwitches(encoder, dtype=dtype)
        torch.testing.assert_close(
            switches.run(encoder, pixels).float(), expected, atol=tolerance, rtol=tolerance
        )
    compiled = EncoderSwitches(encoder, compile=True).run(encoder, pixels)
    torch.testing.assert_close(compiled, expected, atol=1e-3, rtol=1e-3)
