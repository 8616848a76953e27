"""`make bench-receive`: its arithmetic, its keys, its slices on the wire; no receiver is started here."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest
from pydicom import dcmread

from bench import growth, receive, receivers, senders
from bench.growth import Cost
from bench.receive import MANY, NAGLE_CELL, SPEED, Cell, Found
from bench.slices import LARGEST_PDU, Shipment, fixed_uid, messages, slices
from model.statistics import result_line
from tests.builders import pdu

ONE, FOUR = Cell(1), Cell(MANY)
ISSUE_6 = {
    "ratio_orthanc_1",
    "ratio_orthanc_4",
    "ratio_storescp_fsync_1",
    "ratio_storescp_fsync_4",
    "ratio_pynetdicom_app_1",
    "growth_1m_over_1k",
}


def rates_of(per_column: dict[str, list[float]], cells: tuple[Cell, ...] = (ONE, FOUR)) -> receive.Rates:
    """The same rates in each cell."""
    return {(column, cell): values for column, values in per_column.items() for cell in cells}


def found_of_everything() -> Found:
    """Two rounds of every column and cell."""
    cells = (*SPEED, receive.SERIES_CELL, NAGLE_CELL)
    rates = rates_of({column: [100.0, 200.0] for column in receive.COLUMNS}, cells)
    lags = {column: [0.01] for column in receive.COLUMNS}
    return Found(rates, lags, {"orthanc": [170.0], "node_sqlite": [60.0, 67.0]}, [1.0, 1.2])


def test_a_ratio_is_the_median_of_same_round_ratios() -> None:
    """Not the ratio of the medians: 2, 1 and 4 have the median 2, the medians' ratio would be 3."""
    rates = rates_of({"node_sqlite": [20.0, 30.0, 40.0], "orthanc": [10.0, 30.0, 10.0]})
    assert receive.ratios(rates)["ratio_orthanc_1"] == [2.0, 1.0, 4.0]
    assert receive.figures(Found(rates, floors_ms=[1.0]))["ratio_orthanc_1"] == 2.0


def test_rounds_that_do_not_pair_are_refused() -> None:
    """A receiver that lacks a round has no ratio."""
    with pytest.raises(ValueError, match="zip"):
        receive.ratios(rates_of({"node_sqlite": [1.0, 2.0], "orthanc": [1.0]}))


def test_the_result_line_has_the_issues_keys_and_numbers_alone() -> None:
    """Every key that the issue names, and `result_line` takes all values."""
    costs = {level: [Cost(2.0, 1.0)] for level in growth.LEVELS}
    told = receive.figures(found_of_everything()) | growth.figures(costs)
    assert set(told) >= ISSUE_6 | {"rss_mb_8", "fsync_ms", "instances_per_s", "ratio_pynetdicom_app_4"}
    assert result_line(told).startswith('RESULT {"ratio_orthanc_1": ')


def test_headlines_are_the_raw_sender_with_512_squared_and_sqlite() -> None:
    """Another sender, size or database has a key of its own, and does not touch the headline."""
    rates = found_of_everything().rates
    rates["node_sqlite", ONE] = [300.0, 600.0]
    ratios = receive.ratios(rates)
    assert [key for key, values in ratios.items() if 3.0 in values] == [f"ratio_{peer}_1" for peer in receive.PEERS]
    assert {"ratio_orthanc_4_storescu_256", "ratio_orthanc_1_series", "ratio_orthanc_1_nagle"} <= set(ratios)
    assert {"ratio_storescp_fsync_4_postgres", "ratio_orthanc_1_256_postgres"} <= set(ratios)


def test_a_column_that_was_not_measured_has_no_figure() -> None:
    """A number is missing then, and no other stands in for it."""
    told = receive.figures(Found(rates_of({"node_sqlite": [5.0]}), floors_ms=[1.0]))
    assert not [key for key in told if key.startswith("ratio")]


def test_growth_is_the_worse_of_wall_and_processor_time() -> None:
    """Twice the processor time in the same wall time is growth by two."""
    costs = {1000: [Cost(2.0, 1.0), Cost(4.0, 1.0)], 1_000_000: [Cost(2.2, 2.0), Cost(4.4, 2.0)]}
    told = growth.figures(costs)
    assert (told["growth_1m_over_1k"], told["growth_cpu_1m_over_1k"]) == (2.0, 2.0)
    assert told["growth_wall_1m_over_1k"] == pytest.approx(1.1)


def test_a_target_that_is_missed_says_so_in_the_table() -> None:
    """0.9 of Orthanc is beside 2.20 and MISSED; 0.9 of storescp with fsync is enough."""
    rates = rates_of({"node_sqlite": [90.0], "orthanc": [100.0], "storescp_fsync": [100.0]}, (ONE,))
    said = {line.split()[0]: line for line in receive.ratio_table(rates)}
    assert said["ratio_orthanc_1"].endswith("2.20  MISSED")
    assert said["ratio_storescp_fsync_1"].endswith("0.75")


@pytest.mark.parametrize("max_pdu", [16384, LARGEST_PDU, 0])
def test_the_wire_and_the_file_hold_the_same_slice(max_pdu: int) -> None:
    """The message's PDVs, joined, are the command and the file's data set; no PDU is longer than the peer takes."""
    shipment = Shipment("wire", 2, 64)
    for one, message in zip(slices(shipment), messages(shipment, max_pdu), strict=True):
        ds = dcmread(io.BytesIO(one.file + one.pixels))
        data, stream = b"", io.BytesIO(message)
        while head := stream.read(6):
            length = int.from_bytes(head[2:], "big")
            assert length <= (max_pdu or LARGEST_PDU)
            body = stream.read(length)
            data += body[6:] if not body[5] & pdu.COMMAND else b""
        assert data == one.data_set + one.pixels
        assert (ds.SOPInstanceUID, ds.file_meta.MediaStorageSOPInstanceUID) == (one.sop_uid, one.sop_uid)
        assert len(ds.PixelData) == 2 * 64 * 64


def test_no_two_slices_have_one_uid_and_all_are_as_long() -> None:
    """UIDs are put into a header of a fixed length."""
    uids = [one.sop_uid for cell in SPEED for load in cell.shipments(8) for one in slices(load._replace(side=16))]
    assert len(set(uids)) == len(uids) == 8 * len(SPEED)
    assert {len(uid) for uid in uids} == {len(fixed_uid("x"))} == {44}


def test_a_span_is_from_the_first_start_to_the_last_end() -> None:
    """Several senders are one measurement."""
    assert senders.joined([senders.Span(1.0, 3.0), senders.Span(0.5, 2.0)]) == senders.Span(0.5, 3.0)


def test_the_peers_maximum_length_is_read_and_a_missing_one_refused() -> None:
    """From the user information of the answer; an answer without it makes no guess."""
    user = pdu.item(0x50, pdu.item(0x52, b"1.2") + pdu.item(0x51, (28672).to_bytes(4, "big")))
    assert senders.max_pdu(bytes(68) + pdu.item(0x10, b"1.2") + user) == 28672
    with pytest.raises(senders.NotTaken):
        senders.max_pdu(bytes(68) + pdu.item(0x10, b"1.2"))


def test_processor_time_is_that_of_the_process_and_of_its_children() -> None:
    """A child that has used half a second and ended is counted with its parent."""
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert receivers.cpu_s(process.pid) > 0.45
        process.communicate(b"\n")
    before = receivers.cpu_s(os.getpid())
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    assert receivers.cpu_s(os.getpid()) - before > 0.09
