"""What the controls say, in words."""

from evaluation.controls import FEWEST_FOR_INTERVAL, ControlScores, Estimate


def verdict(psnr: ControlScores) -> list[str]:
    """A sentence for each control: does the model beat it?"""
    return [says(psnr.differences[name]) for name, says in _SENTENCES.items() if name in psnr.differences]


def _mean_volume(by: Estimate) -> str:
    if by.low is None or by.high is None:
        return f"Too few patients to say whether it beats the mean training CT: {_decibel(by)}."
    if by.low > 0:
        return f"It beats the mean training CT by {_decibel(by)}."
    if by.high < 0:
        return f"It does not beat the mean training CT, which is nearer to the truth: {_decibel(by)}."
    return f"It does not beat the mean training CT: the difference, {_decibel(by)}, may be none."


def _wrong(by: Estimate) -> str:
    if by.low is None or by.high is None:
        return f"Too few patients to say whether the X-ray decides what is drawn: {_decibel(by)}."
    if by.low > 0:
        return f"It follows its X-ray: with another patient's, all else equal, it loses {_decibel(by)}."
    if by.high < 0:
        return f"It is misled by its X-ray: with another patient's it is nearer to the truth: {_decibel(by)}."
    return f"It does not follow its X-ray: another patient's does as well, within the interval: {_decibel(by)}."


def _null(by: Estimate) -> str:
    if by.low is None or by.high is None:
        return f"Too few patients to say whether the X-ray helps: {_decibel(by)}."
    if by.low > 0:
        return f"The X-ray helps: without any it loses {_decibel(by)}."
    return f"The X-ray does not help: without any it does as well or better: {_decibel(by)}."


_SENTENCES = {"mean_volume": _mean_volume, "wrong": _wrong, "null": _null}


def _decibel(by: Estimate) -> str:
    if by.low is None:
        return f"{by.value:.2f} dB, of fewer than {FEWEST_FOR_INTERVAL} patients"
    return f"{by.value:.2f} dB (95 % interval {by.low:.2f} to {by.high:.2f})"
