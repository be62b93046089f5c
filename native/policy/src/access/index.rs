//! Which rules can match a request at all, by a few look-ups: a hundred rules cost little more than one.
//!
//! A rule asks for one of certain texts in a field (each match of one of its clauses does). Of every field that texts are looked up for here, the rules that
//! ask for the request's text, or for none, are a set of bits; what is in all sets is then compared in full, so the index may only leave out what cannot match.
use std::collections::HashMap;

use trackbed_contract::Identity;

use super::condition::{Condition, PathPattern};
use super::policies::Rule;
use super::subject::{Paths, Subject};
use crate::policy::{Field, Text};

/// Fewer rules are compared one by one: looking up costs as much.
const LEAST_RULES: usize = 6;
/// Lengths of prefixes that are looked up: a look-up for each. Rules with others are always compared.
const MOST_LENGTHS: usize = 8;

#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Policy and rule, in order.
    rules: Vec<(usize, usize)>,
    /// Empty where there are few rules.
    fields: Vec<(Asked, Texts)>,
}

/// Fields whose texts tell most clients and requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Path,
    Method,
    Principal,
    Namespace,
    RequestPrincipal,
}

const ASKED: [Asked; 5] = [Asked::Path, Asked::Method, Asked::Principal, Asked::Namespace, Asked::RequestPrincipal];

type Bits = Box<[u64]>;

#[derive(Debug, Clone)]
struct Texts {
    exact: HashMap<Box<str>, Bits>,
    /// By length, longest first or not: all are looked up.
    prefixes: Vec<(usize, HashMap<Box<str>, Bits>)>,
    /// Rules that ask for none, or for what cannot be looked up.
    any: Bits,
}

/// What is looked up for a text.
enum Key<'a> {
    Exact(&'a str),
    Prefix(&'a str),
}

impl Index {
    pub(super) fn of<'a>(rules: impl Iterator<Item = (usize, usize, &'a Rule)>) -> Self {
        let all: Vec<_> = rules.collect();
        let rules = all.iter().map(|(policy, rule, _)| (*policy, *rule)).collect();
        if all.len() < LEAST_RULES {
            return Self { rules, fields: Vec::new() };
        }
        let words = all.len().div_ceil(64);
        let mut fields = Vec::new();
        for asked in ASKED {
            let mut texts = Texts { exact: HashMap::new(), prefixes: Vec::new(), any: vec![0; words].into() };
            let mut told = false;
            for (number, (_, _, rule)) in all.iter().enumerate() {
                match asked.keys(rule) {
                    Some(keys) if texts.fits(&keys) => {
                        told = true;
                        for key in &keys {
                            texts.add(key, number, words);
                        }
                    }
                    _ => set(&mut texts.any, number),
                }
            }
            if told {
                fields.push((asked, texts));
            }
        }
        Self { rules, fields }
    }

    /// Those that can match, in order, until `go_on` says no.
    pub(super) fn candidates(&self, subject: &Subject<'_>, mut go_on: impl FnMut(usize, usize) -> bool) {
        // Of what is not HTTP conditions hold that cannot be looked up.
        if self.fields.is_empty() || subject.http.is_none() {
            for (policy, rule) in &self.rules {
                if !go_on(*policy, *rule) {
                    return;
                }
            }
            return;
        }
        let mut left = vec![u64::MAX; self.rules.len().div_ceil(64)];
        let mut found = left.clone();
        for (asked, texts) in &self.fields {
            found.copy_from_slice(&texts.any);
            asked.each_text(subject, |text| texts.find(text, &mut found));
            left.iter_mut().zip(&found).for_each(|(left, found)| *left &= found);
        }
        for (word, bits) in left.iter_mut().enumerate() {
            while *bits != 0 {
                let number = word * 64 + bits.trailing_zeros() as usize;
                *bits &= *bits - 1;
                let Some((policy, rule)) = self.rules.get(number) else { return };
                if !go_on(*policy, *rule) {
                    return;
                }
            }
        }
    }
}

impl Texts {
    fn fits(&self, keys: &[Key<'_>]) -> bool {
        let known = |length: usize| self.prefixes.iter().any(|(of, _)| *of == length);
        let mut new: Vec<usize> = keys.iter().filter_map(|key| if let Key::Prefix(text) = key { Some(text.len()) } else { None }).collect();
        new.retain(|length| !known(*length));
        new.sort_unstable();
        new.dedup();
        self.prefixes.len() + new.len() <= MOST_LENGTHS
    }

    fn add(&mut self, key: &Key<'_>, number: usize, words: usize) {
        let (of, text) = match key {
            Key::Exact(text) => (&mut self.exact, text),
            Key::Prefix(text) => {
                let known = self.prefixes.iter().position(|(length, _)| *length == text.len());
                let index = known.unwrap_or_else(|| {
                    self.prefixes.push((text.len(), HashMap::new()));
                    self.prefixes.len() - 1
                });
                (&mut self.prefixes[index].1, text)
            }
        };
        set(of.entry((*text).into()).or_insert_with(|| vec![0; words].into()), number);
    }

    fn find(&self, text: &str, found: &mut [u64]) {
        let mut add = |bits: Option<&Bits>| {
            if let Some(bits) = bits {
                found.iter_mut().zip(bits).for_each(|(found, bits)| *found |= bits);
            }
        };
        if !self.exact.is_empty() {
            add(self.exact.get(text));
        }
        for (length, prefixes) in &self.prefixes {
            add(text.get(..*length).and_then(|beginning| prefixes.get(beginning)));
        }
    }
}

fn set(bits: &mut Bits, number: usize) {
    bits[number / 64] |= 1 << (number % 64);
}

impl Asked {
    /// One of them must be what the request has, for the rule to match. None: it asks for nothing that could be looked up.
    fn keys<'a>(self, rule: &'a Rule) -> Option<Vec<Key<'a>>> {
        rule.iter().find_map(|clause| {
            let of_clause: Option<Vec<Vec<Key<'a>>>> =
                clause.iter().map(|conditions| conditions.iter().find_map(|condition| self.keys_of(condition))).collect();
            of_clause.map(|keys| keys.into_iter().flatten().collect())
        })
    }

    fn keys_of(self, condition: &Condition) -> Option<Vec<Key<'_>>> {
        match (self, condition) {
            (Self::Path, Condition::Paths(field)) => {
                let readings = field.any.iter().flat_map(|text| {
                    let count = if text.others.is_some() { Paths::READINGS } else { 1 };
                    (0..count).map(|number| text.reading(number))
                });
                let keys: Option<Vec<_>> = readings.map(key_of_path).collect();
                keys.filter(|keys| !keys.is_empty())
            }
            (Self::Method, Condition::Methods(field))
            | (Self::Principal, Condition::Principals(field))
            | (Self::Namespace, Condition::Namespaces(field))
            | (Self::RequestPrincipal, Condition::RequestPrincipals(field)) => keys_of_texts(field),
            _ => None,
        }
    }

    fn each_text(self, subject: &Subject<'_>, mut told: impl FnMut(&str)) {
        let Some(http) = &subject.http else { return };
        match self {
            Self::Path if http.paths.is_plain() => told(http.paths.reading(0)),
            Self::Path => (0..Paths::READINGS).for_each(|number| told(http.paths.reading(number))),
            Self::Method => told(http.method),
            Self::Principal => told(subject.source.map_or("", Identity::principal)),
            Self::Namespace => told(subject.source.map_or("", Identity::namespace)),
            Self::RequestPrincipal => told(http.token.map_or("", |token| token.principal())),
        }
    }
}

fn keys_of_texts(field: &Field<Text>) -> Option<Vec<Key<'_>>> {
    let keys: Option<Vec<_>> = field.any.iter().map(key_of_text).collect();
    keys.filter(|keys| !keys.is_empty())
}

fn key_of_text(text: &Text) -> Option<Key<'_>> {
    match text {
        Text::Exact(text) => Some(Key::Exact(text)),
        Text::Prefix(text) => Some(Key::Prefix(text)),
        Text::Suffix(_) | Text::Presence => None,
    }
}

fn key_of_path(pattern: &PathPattern) -> Option<Key<'_>> {
    match pattern {
        PathPattern::Text(text) => key_of_text(text),
        PathPattern::Template(template) => Some(template.beginning()).filter(|text| !text.is_empty()).map(Key::Prefix),
    }
}
