//! A violation drawn: one page of HTML that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Kind, Operation, Violation, describe};

/// Events that are drawn, counted back from the last; the beginning of a long history is the least interesting part.
const EVENTS_DRAWN: usize = 400;
/// Pixels for an event and for a client.
const EVENT_WIDTH: usize = 14;
const CLIENT_HEIGHT: usize = 26;
const LEFT: usize = 90;
const TOP: usize = 24;

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:1.5em}svg{background:#fafafa;border:1px solid #ddd}\
.scroll{overflow-x:auto}text{font:11px system-ui,sans-serif}rect{stroke:#0003}rect:hover{stroke:#000}\
.append{fill:#9ecae1}.read{fill:#a1d99b}.tail{fill:#d9d9d9}.unknown{fill:#fdd49e;stroke-dasharray:4 2}\
.blocked{fill:#e34a33}table{border-collapse:collapse;margin-top:1em}td,th{padding:.15em .6em;text-align:left;\
border-bottom:1px solid #eee}tr.bad{background:#fee}";

/// The page. Bars are operations from start to finish, a row for each client; the number in a bar is its place in the
/// longest order, and the red one is what does not fit.
pub fn html(violation: &Violation) -> String {
    let first_event = violation.events.saturating_sub(EVENTS_DRAWN);
    let place: BTreeMap<usize, usize> = (1..)
        .zip(&violation.order)
        .map(|(n, index)| (*index, n))
        .collect();
    let drawn: Vec<(usize, &Operation)> = violation
        .operations
        .iter()
        .enumerate()
        .filter(|(index, it)| {
            it.ended.unwrap_or(usize::MAX) >= first_event && is_of_interest(violation, *index, it)
        })
        .collect();
    let mut rows = BTreeMap::new();
    for (_, operation) in &drawn {
        let row = rows.len();
        rows.entry(operation.client_id).or_insert(row);
    }
    let width = LEFT + EVENT_WIDTH * (violation.events - first_event + 4);
    let height = TOP + CLIENT_HEIGHT * rows.len() + 8;

    let mut page = String::new();
    let out = &mut page;
    line(
        out,
        format_args!(
            "<!doctype html><meta charset=utf-8><title>Not linearizable</title><style>{STYLE}</style>"
        ),
    );
    line(
        out,
        format_args!("<h1>Not linearizable</h1><p>{}</p>", escape(&violation.summary())),
    );
    line(
        out,
        format_args!(
            "<p>{} of {} operations can be put in order, up to tail {}; the red one cannot come next, and nothing that \
         would make it fit can come before it. A dashed bar is an append of unknown outcome. Drawn are the events {} to {}.</p>",
            violation.order.len(),
            violation.operations.len(),
            violation.state.tail,
            first_event + 1,
            violation.events,
        ),
    );
    line(
        out,
        format_args!("<div class=scroll><svg width={width} height={height}>"),
    );
    for (client, row) in &rows {
        let y = TOP + row * CLIENT_HEIGHT + 15;
        line(out, format_args!("<text x=6 y={y}>client {client}</text>"));
    }
    for (index, operation) in &drawn {
        let x = |event: usize| LEFT + EVENT_WIDTH * event.saturating_sub(first_event);
        let from = x(operation.began);
        let until = operation
            .ended
            .map_or(width - 4, |ended| x(ended) + EVENT_WIDTH - 2);
        let y = TOP + rows[&operation.client_id] * CLIENT_HEIGHT;
        let class = class(violation, *index, operation);
        let number = place.get(index).map_or(String::new(), usize::to_string);
        let title = escape(&format!(
            "operation {}: {}",
            operation.op_id,
            describe(operation, &violation.tokens)
        ));
        line(
            out,
            format_args!(
                "<g><rect class={class} x={from} y={y} width={} height={} rx=3><title>{title}</title></rect>\
             <text x={} y={} pointer-events=none>{number}</text></g>",
                until.saturating_sub(from).max(6),
                CLIENT_HEIGHT - 6,
                from + 3,
                y + 14,
            ),
        );
    }
    line(
        out,
        format_args!("</svg></div><table><tr><th>order<th>operation<th>client<th>events<th>what"),
    );
    for (index, operation) in &drawn {
        let bad = if *index == violation.blocked {
            " class=bad"
        } else {
            ""
        };
        let order = place.get(index).map_or("–".to_owned(), usize::to_string);
        let ended = operation
            .ended
            .map_or("…".to_owned(), |ended| (ended + 1).to_string());
        line(
            out,
            format_args!(
                "<tr{bad}><td>{order}<td>{}<td>{}<td>{}–{ended}<td>{}",
                operation.op_id,
                operation.client_id,
                operation.began + 1,
                escape(&describe(operation, &violation.tokens)),
            ),
        );
    }
    line(out, format_args!("</table>"));
    page
}

/// Unknown outcomes of long ago that did not happen would fill the page.
fn is_of_interest(violation: &Violation, index: usize, operation: &Operation) -> bool {
    let recent = operation.began + EVENTS_DRAWN >= violation.events;
    recent || operation.ended.is_some() || index == violation.blocked
}

fn class(violation: &Violation, index: usize, operation: &Operation) -> &'static str {
    match &operation.kind {
        _ if index == violation.blocked => "blocked",
        Kind::Append { tail: None, .. } => "unknown",
        Kind::Append { .. } => "append",
        Kind::Read { .. } => "read",
        Kind::CheckTail { .. } => "tail",
    }
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(page, "{text}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
