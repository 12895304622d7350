//! Random values of every definition go there and back unchanged; spoilt ones are refused with the
//! path of what was spoilt. `SEED` replays a run, `ROUNDS` makes a longer one.
#![cfg(test)]

mod draw;
mod shape;
mod spoil;

use consumer_round_trip::{Reader, Refused, RoundTrip, SCHEMAS, Tested};
use draw::Draw;
use qapi_parser::{Loader, Schema};
use serde_json::Value;
use spoil::Spoilt;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Whether a value was of use to a test.
enum Outcome {
    Held,
    /// There is nothing in it to do it with.
    Skipped,
}

/// Runs `test` for every definition of every schema, as often as `ROUNDS` says.
fn for_each(test: impl Fn(&str, RoundTrip, &mut Draw<'_>, Value) -> Outcome) {
    let clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    };
    let seed = number("SEED").unwrap_or_else(clock);
    let rounds = number("ROUNDS").unwrap_or(12);
    println!("SEED={seed} ROUNDS={rounds}");
    let (mut held, mut skipped) = (0, 0);
    for tested in SCHEMAS {
        let schema = load(tested);
        let mut draw = Draw::new(&schema, seed);
        for (name, trip) in tested.table {
            for _ in 0..rounds {
                if let Some(value) = draw.definition(name) {
                    match test(name, *trip, &mut draw, value) {
                        Outcome::Held => held += 1,
                        Outcome::Skipped => skipped += 1,
                    }
                }
            }
        }
    }
    println!(
        "{held} values of {} schemas, {skipped} skipped",
        SCHEMAS.len()
    );
    assert!(held > 2 * skipped);
}

fn load(tested: &Tested) -> Schema {
    let mut loader = Loader::new();
    for overlay in tested.overlays {
        loader = loader.overlay(overlay);
    }
    let schema = loader.load(tested.schema);
    schema.unwrap_or_else(|errors| panic!("{}: {errors}", tested.name))
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn values_come_back_as_they_went() {
    for_each(|name, trip, _, value| {
        for reader in [Reader::Server, Reader::Client] {
            match trip(&value.to_string(), reader) {
                Ok(back) => assert_eq!(parse(&back), value, "{name}"),
                Err(Refused { text, .. }) => panic!("{name}: {text}\n{value:#}"),
            }
        }
        Outcome::Held
    });
}

#[test]
fn spoilt_values_are_refused_where_they_were_spoilt() {
    for_each(|name, trip, draw, value| {
        let Some(Spoilt { value, path, last }) = spoil::spoil(draw, name, value) else {
            return Outcome::Skipped;
        };
        match trip(&value.to_string(), Reader::Server) {
            Ok(_) => panic!("{name}: {path} was let through\n{value:#}"),
            Err(refused) => {
                assert_eq!(refused.path, path, "{name}: {}\n{value:#}", refused.text);
                assert!(refused.text.contains(&last), "{name}: {}", refused.text);
            }
        }
        Outcome::Held
    });
}

#[test]
fn a_client_skips_members_that_are_new() {
    for_each(|name, trip, draw, value| {
        let Some(grown) = spoil::grow(draw, name, value.clone()) else {
            return Outcome::Skipped;
        };
        match trip(&grown.to_string(), Reader::Client) {
            Ok(back) => assert_eq!(parse(&back), value, "{name}"),
            Err(Refused { text, .. }) => panic!("{name}: {text}\n{grown:#}"),
        }
        Outcome::Held
    });
}
