from sepssl.reports.tables import encoder_table, few_clips


def row(qbe, **counts):
    scores = {"qbe_map": qbe, "qbe_map_low": qbe - 0.1, "qbe_map_high": qbe + 0.05}
    for kind in ("linear", "mlp"):
        scores |= {f"{kind}_map": 0.5, f"{kind}_map_low": 0.4, f"{kind}_map_high": 0.75}
        scores[f"{kind}_d_prime"] = 1.234
    return scores | {"qbe_chance": 0.125, "classes": 8} | counts


def test_a_row_per_representation():
    counts = {"train_clips": 300, "validation_clips": 100, "test_clips": 100}
    perfect = row(0.9, **counts) | {"linear_d_prime": None}
    assert encoder_table({"encoder": row(0.75, **counts), "oracle": perfect}) == (
        "8 classes; clips: 300 train, 100 validation, 100 test\n"
        "         QbE mAP                 linear mAP              mlp mAP                 "
        "linear d'  mlp d'\n"
        "encoder  0.750 (0.650 to 0.800)  0.500 (0.400 to 0.750)  0.500 (0.400 to 0.750)  "
        "1.23       1.23\n"
        "oracle   0.900 (0.800 to 0.950)  0.500 (0.400 to 0.750)  0.500 (0.400 to 0.750)  "
        "inf        1.23\n"
        "chance   0.125\n"
        "QbE: query by example. In parentheses: 95 % bootstrap interval over test clips."
    )


def test_few_clips_are_warned_of():
    counts = {"train_clips": 18, "validation_clips": 6, "test_clips": 6}
    assert encoder_table({"encoder": row(1.0, **counts)}).endswith(
        "\nwarning: only 6 test clips; below 50, scores and intervals mean little, "
        "even where an interval is narrow"
    )
    assert few_clips(50, "clip") == []
