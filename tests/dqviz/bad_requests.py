"""Values of options that are not understood, out of range, or at odds with one another."""

from __future__ import annotations

from tests.dqviz.spoiled import Case

CASES: dict[str, Case] = {
    "unknown model": (
        lambda p: ["compare", "dit-emojy", *p.compare()[2:]],
        ("unknown model 'dit-emojy'", "dqviz models"),
    ),
    "model folder absent": (
        lambda p: ["compare", "/nowhere/at/all", *p.compare()[2:]],
        ("/nowhere/at/all", "embedded key"),
    ),
    "unknown method": (
        lambda p: p.compare("--method", "vidit"),
        ("unknown method 'vidit'", "viditq"),
    ),
    "no method": (
        lambda p: ["compare", str(p.model), "--bits", "w4a8", "--out", str(p.out)],
        ("nothing to compare", "--method"),
    ),
    "unknown option name": (
        lambda p: p.compare("--method", "viditq", "--option", "alhpa=0.5"),
        ("'alhpa'", "alpha"),
    ),
    "option of another method": (
        lambda p: p.compare("--option", "viditq.alpha=0.5"),
        ("'viditq'", "rtn"),
    ),
    "bad option value": (
        lambda p: p.compare("--method", "viditq", "--option", "alpha=2"),
        ("alpha", "between 0 and 1"),
    ),
    "option without a value": (
        lambda p: p.compare("--option", "alpha"),
        ("'alpha'", "name=value"),
    ),
    "sweep in no steps": (
        lambda p: ["sensitivity", str(p.model), "--bits", "4", "--steps", "-1"],
        ("steps -1 is out of range", "--steps 20"),
    ),
    "bits a method cannot do": (  # not w8a9, which would be refused as well
        lambda p: p.compare("--bits", "w9a9"),
        ("'w9a9'", "try w8a8"),
    ),
    "bits syntax": (lambda p: p.compare("--bits", "4/8"), ("'4/8'", "write w8a8")),
    "no bits": (
        lambda p: ["compare", str(p.model), "--method", "rtn", "--out", str(p.out)],
        ("no bits", "--bits w4a8"),
    ),
    "more bits than methods": (
        lambda p: p.compare("--method", "rtn", "--bits", "w4a8,w8a8,w4a4"),
        ("w4a8,w8a8,w4a4", "one per method"),
    ),
    "untrained class id": (lambda p: p.compare("--classes", "7"), ("class 7", "apple")),
    "preflight with an untrained class": (
        lambda p: p.compare("--classes", "7", "--preflight"),
        ("class 7", "apple"),
    ),
    "unknown class name": (lambda p: p.compare("--classes", "catt"), ("'catt'", "cat")),
    "prompt for a class model": (
        lambda p: p.compare("--prompt", "a red apple"),
        ("prompts", "--classes"),
    ),
    "negative prompt for a class model": (
        lambda p: p.compare("--negative", "blurry"),
        ("draws classes", "negative prompt"),
    ),
    "frames of a model that draws pictures": (
        lambda p: p.compare("--frames", "4"),
        ("frames 4", "--frames"),
    ),
    "size syntax": (lambda p: p.compare("--size", "16by16"), ("'16by16'", "480x720")),
    "seed syntax": (lambda p: p.compare("--seeds", "0..7"), ("'0..7'", "write 0-7")),
    "seeds backwards": (lambda p: p.compare("--seeds", "7-0"), ("7-0", "0-7")),
    "duplicate seeds": (lambda p: p.compare("--seeds", "1,2,1"), ("seed 1", "once")),
    "steps out of range": (lambda p: p.compare("--steps", "0"), ("steps 0", "1 to 1000")),
    "steps not a number": (lambda p: p.compare("--steps", "many"), ("many", "integer")),
    "guidance out of range": (
        lambda p: p.compare("--guidance", "-2"),
        ("guidance -2", "0 to 100"),
    ),
    "windows out of range": (
        lambda p: p.compare("--windows", "5", "--steps", "4"),
        ("windows 5", "1 to 4"),
    ),
    "windows beyond the card's steps": (
        lambda p: p.compare("--windows", "9"),
        ("windows 9", "1 to 4"),
    ),
    "calibrating on what is reported": (
        lambda p: p.compare("--seeds", "0-7", "--calibration-seeds", "7-9"),
        ("seed 7", "disjoint"),
    ),
    "unknown backend": (lambda p: p.compare("--backend", "intger"), ("'intger'", "integer")),
    "unknown residency": (lambda p: p.compare("--residency", "fast"), ("'fast'", "speed, memory")),
    "attention without a method": (
        lambda p: ["compare", str(p.model), "--candidate", str(p.out), "--attention", "int8"],
        ("--attention int8", "--method"),
    ),
    "unknown device": (lambda p: p.compare("--device", "gpu"), ("'gpu'", "cuda")),
    "unknown dtype": (lambda p: p.compare("--dtype", "bf16"), ("'bf16'", "bfloat16")),
    "capture of no samples": (lambda p: p.capture("--samples", "0"), ("samples 0", "--samples 8")),
    "capture of samples and seeds": (
        lambda p: p.capture("--samples", "4", "--seeds", "0-3"),
        ("--samples 4", "--seeds 0-3", "one of them"),
    ),
    "capture with a seed named twice": (lambda p: p.capture("--seeds", "3,3"), ("seed 3", "once")),
    "capture with bits alone": (
        lambda p: p.capture("--bits", "w4a8"),
        ("--bits goes with a method", "--method viditq"),
    ),
    "capture with a method alone": (
        lambda p: p.capture("--method", "viditq"),
        ("no bits", "viditq", "--bits w4a8"),
    ),
    "capture of an unknown method": (
        lambda p: p.capture("--method", "vidit", "--bits", "w4a8"),
        ("unknown method 'vidit'", "viditq"),
    ),
    "capture with an unknown option": (
        lambda p: p.capture("--method", "viditq", "--bits", "w4a8", "--option", "alhpa=1"),
        ("'alhpa'", "alpha"),
    ),
    "capture with too few rows": (lambda p: p.capture("--rows", "3"), ("record.rows", "16")),
    "capture without a reservoir": (
        lambda p: p.capture("--reservoir", "0"),
        ("record.reservoir", "greater than or equal to 1"),
    ),
    "capture of an untrained class": (
        lambda p: p.capture("--classes", "7"),
        ("class 7", "apple"),
    ),
    "capture with steps out of range": (
        lambda p: p.capture("--steps", "0"),
        ("steps 0", "1 to 1000"),
    ),
    "unknown shape": (
        lambda p: ["size", "dit-xxl-2", "--bits", "w4a8"],
        ("dit-xxl-2", "dit-xl-2"),
    ),
    "gate without a bound": (lambda p: ["gate", str(p.tmp)], ("--min-psnr", "--against")),
    "gate on an unknown metric": (
        lambda p: ["gate", str(p.tmp), "--bound", "psnr=30"],
        ("'psnr'", "psnr_db"),
    ),
    "gate with a bound that is no number": (
        lambda p: ["gate", str(p.tmp), "--bound", "ssim=high"],
        ("ssim=high", "ssim=0.1"),
    ),
    "gate with two bounds on one metric": (
        lambda p: ["gate", str(p.tmp), "--min-ssim", "0.9", "--bound", "ssim=0.8"],
        ("ssim", "two bounds"),
    ),
    "gate on no study": (
        lambda p: ["gate", str(p.tmp), "--min-psnr", "30"],
        ("not a study", "dqviz compare"),
    ),
    "app password without a name": (lambda p: ["app", "--auth", "secret"], ("--auth", "ada:")),
    "port out of range": (lambda p: ["app", "--port", "99999"], ("99999", "7860")),
    "unknown command": (lambda p: ["compaer"], ("'compaer'", "compare")),
    "unknown flag": (lambda p: p.compare("--sede", "3"), ("--sede", "--seeds")),
    "missing argument": (lambda p: ["compare"], ("MODEL", "--help")),
}
