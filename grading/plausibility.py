"""Reports records of runs that no training is likely to leave: a reason to ask, no proof."""
import datetime

from grading.findings import Finding

MIXING = {"cutmix", "mixup", "trivialaugment"}  # they lower the training accuracy


def check_plausibility(runs, policy, today=None):
    """Findings on what is implausible in the records of runs.

    Args:
        runs: name -> SubmittedRun.
        policy: a Policy, whose bounds hold.
        today: a date, by default that of today.
    """
    today = today or datetime.date.today()
    findings = []
    for name, run in runs.items():
        phrases = [
            *_accuracy_phrases(run, policy.plausible),
            *_loss_phrases(run, policy.plausible),
            *_date_phrases(run.record.finished, today),
        ]
        for phrase in phrases:
            findings.append(Finding(f"run {name}", "implausible", f"the run {name}: {phrase}"))
    return findings


def _accuracy_phrases(run, bounds):
    """Phrases on test accuracy and speed."""
    record = run.record
    phrases = []
    trained = run.history.train_accuracy.iloc[-1]
    above = record.accuracy - trained
    # The mean over a first epoch, and over mixed images, lies far below the accuracy at its end.
    is_first_epoch = len(run.history) == 1 and not record.config.start
    comparable = not is_first_epoch and not MIXING & record.config.augmentation
    if comparable and above > bounds.test_above_training:
        phrases.append(
            f"the test accuracy, {record.accuracy:.2f} %, is far above the training accuracy, "
            f"{trained:.2f} %"
        )
    speed = record.train_images * len(run.history) / max(record.seconds, 1e-9)
    if speed > bounds.images_per_second:
        phrases.append(f"it trained on {speed:,.0f} images a second")
    return phrases


def _loss_phrases(run, bounds):
    """Phrases on the loss of each step."""
    phrases = []
    first = run.losses[0]
    lowest, highest = bounds.first_loss
    if not run.record.config.start and not lowest <= first <= highest:
        phrases.append(f"the loss of its first step is {first}, which no untrained network has")
    different = len(set(run.losses))
    if len(run.losses) > 20 and different < len(run.losses) / 2:
        phrases.append(f"its {len(run.losses)} losses are only {different} different numbers")
    return phrases


def _date_phrases(finished, today):
    """Phrases on the day when the run ended; time zones differ by a day at most."""
    try:
        day = datetime.date.fromisoformat(finished)
    except ValueError:
        return ["it does not say when it finished"]
    if day > today + datetime.timedelta(days=1):
        return [f"its run.json says that it finished on {finished}, which is in the future"]
    return []
