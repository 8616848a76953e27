"""`studies` and `why`: what the node knows, and why it did what it did. No patient identity is shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.queries import Queries
from npc_rtnode.adapters.database.studies import ENDED_BADLY
from npc_rtnode.app import Station
from npc_rtnode.cli.console import NOTICE, AsJson, Config, Study, answer, out, settings_of, table
from npc_rtnode.domain.selection import BEHIND

app = typer.Typer(help="Studies and where they stand.", no_args_is_help=True)
View = dict[str, Any]


def _queries(config: Config) -> Queries:
    station = Station(settings_of(config))
    schema.require_head(station.engine)
    return station.queries


@app.command("list")
def list_(
    config: Config = None,
    limit: Annotated[int, typer.Option(min=1, max=10000)] = 50,
    state: Annotated[str | None, typer.Option(help="Only studies with a series or job in this state.")] = None,
    as_json: AsJson = False,
) -> None:
    """Studies, newest first."""
    rows = _queries(config).studies(limit, state.upper() if state else None)
    if as_json:
        answer(rows)
        return
    columns = ("study", "received", "series", "instances", "stands at", "T", "GTV cc")
    table(
        "",
        columns,
        (
            (
                row["study"],
                row["first_received_at"][:19],
                row["series"],
                row["instances"],
                ", ".join(row["states"]),
                f"{row['stage']} p={row['stage_probability']:.2f}" if row["stage"] else "",
                row["volume_cc"],
            )
            for row in rows
        ),
    )


@app.command()
def show(study: Study, config: Config = None, as_json: AsJson = False) -> None:
    """One study: its series, jobs, objects and deliveries."""
    view = _queries(config).study(study)
    if as_json:
        answer(view)
        return
    table(f"study {view['study']}", ("what", "state", "detail"), _rows(view))


def why(study: Study, config: Config = None, as_json: AsJson = False) -> None:
    """Stage by stage, what was decided, on which values, by which rules, bundle and settings."""
    queries = _queries(config)
    view, history = queries.study(study), queries.history(study)
    if as_json:
        answer({**view, "history": history, "notice": NOTICE})
        return
    out().print("\n".join(_story(view, history)), markup=False)


def _rows(view: View) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for series in view["series"]:
        name = f"series {series['series']} rev {series['revision']} {series['modality']}"
        said = series["waits"] or "; ".join(series["reasons"]) or f"{series['instances']} instances"
        rows.append((name, series["state"], said))
        for job in series["jobs"]:
            rows.append((f"  job {job['job']} rev {job['result_revision']}", job["state"], _job_line(job)))
            rows += [(f"    {d['kind']} to {d['destination']}", d["state"], d["detail"]) for d in _deliveries(job)]
    return rows


def _job_line(job: View) -> str:
    results = job["results"]
    said = f"{results['stage']} {results['volume_cc']} cc" if "stage" in results else job["bundle"]
    return "; ".join([said, *job["reasons"], *([job["last_error"]] if job["last_error"] else [])])


def _deliveries(job: View) -> list[View]:
    return [
        {**delivery, "kind": item["kind"], "detail": _last_said(delivery)}
        for item in job["objects"]
        for delivery in item["deliveries"]
    ]


def _story(view: View, history: list[View]) -> list[str]:
    story = [f"study {view['study']}, first received {view['first_received_at']}"]
    story += [f"HELD by {view['hold']}"] if view["hold"] else []
    for series in view["series"]:
        story += ["", *_series_story(series), *_way_out(series, view["series"])]
        for job in series["jobs"]:
            story += ["", *_job_story(job)]
    story += ["", "what happened"]
    story += [f"  {e['at']}  {e['actor']:<14} {e['subject']:<12} {_step(e)}" for e in history]
    return [*story, "", NOTICE]


def _step(event: View) -> str:
    change = f" {event['from'] or '-'} -> {event['to']}" if event["to"] else ""
    detail = " ".join(f"{key}={value}" for key, value in event["detail"].items() if value not in (None, [], ""))
    return f"{event['event']}{change}  {detail}".rstrip()


def _series_story(series: View) -> list[str]:
    word = [f"  an operator said  {series['operators_word']}"] if series["operators_word"] else []
    return [
        f"series {series['series']}, revision {series['revision']}, {series['modality']}: {series['state']}",
        f"  received          {series['instances']} instances",
        *(_association_story(association) for association in series["associations"]),
        f"  called            {series['called_ae']}",
        *(f"  source said       {_answer_story(answer)}" for answer in series["asked"]),
        f"  closed            {series['closed_because'] or 'not yet'}",
        *(line for copies in series["conflicts"] for line in _conflict_story(copies)),
        *word,
        *([f"  now               {series['waits']}"] if series["waits"] else []),
        *(f"  reason            {reason}" for reason in series["reasons"]),
        *(_removal_story(removal) for removal in series["removed"]),
        f"  rules             {(series['rules_hash'] or 'not judged yet')[:12]}",
        *(f"    {verdict['truth']:<8}{verdict['rule']}: {verdict['because']}" for verdict in series["verdicts"]),
    ]


def _removal_story(one: View) -> str:
    again = f"; {one['came_again']} came again" if one["came_again"] else ""
    what = f"{one['files']} files of the {one['place']}"
    return f"  removed           {what}, {one['at']}, by {one['by']}: {one['because']}{again}"


def _way_out(series: View, siblings: list[View]) -> list[str]:
    """For a series behind another one whose jobs all came to nothing: the node does not switch by itself."""
    behind = any(reason.split(":")[0] in BEHIND for reason in series["reasons"])
    taken = [one for one in siblings if one["state"] == "SELECTED"]
    if not (behind and taken and all(_is_void(job) for one in taken for job in one["jobs"])):
        return []
    names = ", ".join(str(one["series"]) for one in taken)
    verb = f"`npc-rtnode release --series {series['series']}` takes this one instead"
    return [f"  way out           nothing came of series {names}: {verb}"]


def _is_void(job: View) -> bool:
    return job["state"] in ENDED_BADLY or (job["state"] == "HELD" and not job["releasable"])


def _conflict_story(copies: list[View]) -> list[str]:
    """The contents of one instance in conflict, the first first: what `release --keep` chooses from."""
    return [
        f"  {'in conflict' if number == 1 else '':<17} {number}: {copy['received_at']} from {copy['calling_ae']}, "
        f"{copy['size']} bytes, {copy['sha256'][:12]}"
        for number, copy in enumerate(copies, 1)
    ]


def _answer_story(answer: View) -> str:
    said = answer["because"] if answer["instances"] is None else f"{answer['instances']} instances"
    return f"{answer['source']} at {answer['at'][:19]}: {said}"


def _association_story(one: View) -> str:
    refused = f", {one['images_refused']} images refused" if one["images_refused"] else ""
    return f"  association       {one['calling_ae']} at {one['peer_ip']}, {one['opened_at']}, {one['ended']}{refused}"


def _job_story(job: View) -> list[str]:
    results = job["results"]
    return [
        f"job {job['job']}, result revision {job['result_revision']}: {job['state']}",
        f"  work key          {job['work_key'][:12]}",
        f"  bundle            {job['bundle']} ({job['bundle_hash'][:12]}), settings {job['settings_hash'][:12]}",
        f"  indication        {job['indication']}",
        *(f"  reason            {reason}" for reason in job["reasons"]),
        *([] if job["releasable"] else ["  release           no verb releases this"]),
        *_result_story(results),
        *(_gate_story(gate) for gate in results.get("gates", [])),
        *(_attempt_story(attempt) for attempt in job["attempts"]),
        *(f"  not owed to       {who}" for who in results.get("not_owed", [])),
        *(line for item in job["objects"] for line in _object_story(item)),
    ]


def _result_story(results: View) -> list[str]:
    if "stage" not in results:
        return []
    shares = " ".join(f"T{i} {p:.2f}" for i, p in enumerate(results["stage_probabilities"], 1))
    return [
        f"  model said        {results['stage']} ({shares})",
        f"  GTV               {results['volume_cc']} cc, dropped {results['dropped_cc']} cc",
        *([f"  computed on       {results['ran_on']}"] if results.get("ran_on") else []),
        *(f"  input             {finding}" for finding in results["input_findings"]),
    ]


def _gate_story(gate: View) -> str:
    told = gate["value"] is not None and gate["limit"] is not None
    numbers = f" ({gate['value']:.6g}, limit {gate['limit']:.6g})" if told else ""
    return f"  gate {gate['outcome']:<13}{gate['gate']}: {gate['message']}{numbers}"


def _attempt_story(attempt: View) -> str:
    outcome = attempt["outcome"] or "under way"
    return (
        f"  attempt           {attempt['stage']} {attempt['started_at']} {outcome} {attempt['detail'] or ''}".rstrip()
    )


def _object_story(item: View) -> list[str]:
    back = f", came back {item['came_back']} times" if item["came_back"] else ""
    return [
        f"  object            {_kind(item)} {item['sop_uid']} ({item['size']} bytes, {item['sha256'][:12]}{back})",
        *(_delivery_story(delivery) for delivery in item["deliveries"]),
    ]


def _kind(item: View) -> str:
    return f"{item['kind']}/{item['variant']}" if item["variant"] else str(item["kind"])


def _delivery_story(delivery: View) -> str:
    said, tries = _last_said(delivery) or "not tried yet", len(delivery["attempts"])
    warning = " stored with warning" if delivery["warning"] and delivery["state"] == "SENT" else ""
    when = _delivery_time(delivery)
    return f"    to {delivery['destination']:<14} {delivery['state']} {said}{warning}, {tries} attempts{when}"


def _last_said(delivery: View) -> str:
    """The status of what is SENT; otherwise what went wrong last: an earlier sending's status answers nothing."""
    return (delivery["status"] if delivery["state"] == "SENT" else delivery["last_error"]) or ""


def _delivery_time(delivery: View) -> str:
    if delivery["state"] == "PENDING":
        return f", next try {delivery['due_at']}"
    return f", last sent {delivery['sent_at']}" if delivery["sent_at"] else ""
