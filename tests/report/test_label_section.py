from alignet_ray.artifacts.label import LabelStats, SubsetStats
from alignet_ray.report import label_section
from alignet_ray.report.contents import ReportContents

ALIGNED = SubsetStats(
    triplets=1000,
    ties=5,
    entropy=0.9,
    margin=0.3,
    entropy_histogram=[500, 500],
    margin_histogram=[250, 750],
    border=0.5,
    odd_is_the_other=0.4,
    image_uses={"min": 3, "median": 9.0, "max": 31},
    images_used=17,
)
RAW = SubsetStats(1000, 0, 0.9, 0.31, [500, 500], [250, 750], agreement=0.64)


def statistics(train: SubsetStats) -> LabelStats:
    return LabelStats(scale=1.0, held_out_images=2, train=train, valid=train, images=18)


def test_both_teachers_stand_side_by_side() -> None:
    labels = {"aligned": statistics(ALIGNED), "raw": statistics(RAW)}
    section = label_section.labels(ReportContents("run", {}, [], [], labels=labels))
    assert section is not None
    assert section.triplets == 1000
    assert len(section.histograms) == 2
    cells = {row["labels"]: (row["aligned teacher"], row["unaligned teacher"]) for row in section.rows}
    assert cells == {
        "mean margin": ("0.300", "0.310"),
        "mean entropy (nats)": ("0.900", "0.900"),
        "ties": ("0.50 %", "0.00 %"),
        "odd one is the image of the other cluster": ("80.0 %", "-"),
        "same odd one as the aligned teacher": ("-", "64.0 %"),
        "triplets an image is in: median (range)": ("9 (3 to 31)", "same"),
        "images used for training": ("17 of 18", "same"),
    }


def test_without_a_control_there_is_one_column() -> None:
    section = label_section.labels(ReportContents("run", {}, [], [], labels={"aligned": statistics(ALIGNED)}))
    assert section is not None
    assert all(set(row) == {"labels", "aligned teacher"} for row in section.rows)
    assert label_section.labels(ReportContents("run", {}, [], [])) is None
