"""What the epochs so far say."""

from pointcnn_cli.history import describe_stuck, find_best_epoch, is_stuck


def make_history(validation, training=0.9):
    return [{"accuracy": training, "val_accuracy": accuracy} for accuracy in validation]


def test_the_best_epoch_has_the_lowest_loss_or_the_highest_accuracy_and_is_the_first_of_equals():
    history = [
        {"val_loss": loss, "val_accuracy": accuracy}
        for loss, accuracy in ((0.9, 0.5), (0.4, 0.8), (0.4, 0.9), (0.6, 0.9), (0.5, 0.7))
    ]
    assert find_best_epoch(history, "val_loss") == 2
    assert find_best_epoch(history, "val_accuracy") == 3
    assert find_best_epoch(history[:1], "val_loss") == 1
    assert find_best_epoch([], "val_loss") == 0


def test_five_epochs_at_or_below_a_constant_answer_are_stuck_while_training_goes_well():
    assert is_stuck(make_history([0.3, 0.1, 0.0, 0.168, 0.1, 0.1]), 0.168)
    assert not is_stuck(make_history([0.1, 0.1, 0.1, 0.1]), 0.168)
    assert not is_stuck(make_history([0.1, 0.1, 0.2, 0.1, 0.1]), 0.168)
    assert not is_stuck(make_history([0.1] * 5, training=0.5), 0.168)


def test_the_sentence_holds_the_three_accuracies():
    text = describe_stuck(make_history([0.1]), 0.168)
    assert all(number in text for number in ("0.100", "0.168", "0.900"))
