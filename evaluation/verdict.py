"""What the controls say, in words."""

from dataclasses import dataclass

from evaluation.controls import FEWEST_FOR_INTERVAL, ControlScores, Estimate


@dataclass(frozen=True)
class _Words:
    """Of one control: for too few patients, and where the own X-ray is better than it, worse, or neither surely."""

    unknown: str
    better: str
    worse: str
    level: str

    def sentence(self, by: Estimate, unit: str = " dB") -> str:
        if by.low is None or by.high is None:
            said = self.unknown
        elif by.low > 0:
            said = self.better
        else:
            said = self.worse if by.high < 0 else self.level
        return said.format(_amount(by, unit))


_BLURRED = 0.7  # of the real CTs' gradients
_NO_HELP = "The X-ray does not help: without any it does as well or better: {}."
_WORDS = {
    "mean_volume": _Words(
        "Too few patients to say whether it beats the mean training CT: {}.",
        "It beats the mean training CT by {}.",
        "It does not beat the mean training CT, which is nearer to the truth: {}.",
        "It does not beat the mean training CT: the difference, {}, may be none.",
    ),
    "lookup": _Words(
        "Too few patients to say whether it beats looking up the training CT of the most similar X-ray: {}.",
        "It beats looking up the training CT of the most similar X-ray by {}.",
        "It does not beat looking up the training CT of the most similar X-ray, which is nearer to the truth: {}.",
        "It does not beat looking up the training CT of the most similar X-ray: the difference, {}, may be none.",
    ),
    "wrong": _Words(
        "Too few patients to say whether the X-ray decides what is drawn: {}.",
        "It follows its X-ray: with another patient's, all else equal, it loses {}.",
        "It is misled by its X-ray: with another patient's it is nearer to the truth: {}.",
        "It does not follow its X-ray: another patient's does as well, within the interval: {}.",
    ),
    "null": _Words(
        "Too few patients to say whether the X-ray helps: {}.",
        "The X-ray helps: without any it loses {}.",
        _NO_HELP,
        _NO_HELP,
    ),
}


_SHOWN = _Words(
    "Too few patients to say whether what is drawn shows its X-ray: {}.",
    "What is drawn shows its X-ray: projected, it is more like it than a CT drawn from another patient's, by {}.",
    "What is drawn shows its X-ray less than a CT drawn from another patient's does: {}.",
    "What is drawn does not show its X-ray: a CT drawn from another patient's is as like it, within the interval: {}.",
)


def verdict(psnr: ControlScores) -> list[str]:
    """A sentence for each control: does the model beat it?"""
    return [words.sentence(psnr.differences[name]) for name, words in _WORDS.items() if name in psnr.differences]


def sharpness(gradient_energy: float) -> list[str]:
    """A sentence where drawn CTs are blurred, which PSNR rewards; see `evaluation.seams.gradient_energy`."""
    if not gradient_energy < _BLURRED:
        return []
    return [f"What it draws is blurred: gradients are {gradient_energy:.0%} of the real CTs', which PSNR rewards."]


def shown_xrays(apart: Estimate | None, found: Estimate | None) -> list[str]:
    """Without CTs: is what is drawn, projected, like its X-ray?

    apart: likeness with the own X-ray minus that with another's. found: share of CTs that show their own best.
    """
    said = [] if apart is None else [_SHOWN.sentence(apart, "")]
    return said + ([f"{found.value:.0%} of the drawn CTs show their own X-ray better than any other."] if found else [])


def _amount(by: Estimate, unit: str) -> str:
    if by.low is None:
        return f"{by.value:.2f}{unit}, of fewer than {FEWEST_FOR_INTERVAL} patients"
    return f"{by.value:.2f}{unit} (95 % interval {by.low:.2f} to {by.high:.2f})"
