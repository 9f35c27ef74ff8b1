//! What should be so, and what is.

use std::fmt::{Arguments, Write as _};

use serde::{Deserialize, Serialize};

use super::{fail2ban, files, firewall, own, sshd};
use crate::config::Config;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::updates::settings;

/// One thing that should be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it is about: `sshd: PermitRootLogin`.
    pub name: String,
    /// How it should be.
    pub wanted: String,
    /// How it is; none where nobody could tell.
    pub found: Option<String>,
    /// What helps where it isn't.
    pub fix: String,
}

impl Rule {
    /// What was found may come from anywhere: it is made printable.
    pub fn new(name: &str, wanted: &str, found: Option<String>, fix: &str) -> Self {
        let found = found.map(|text| printable(text.as_bytes()));
        Self { name: name.to_owned(), wanted: wanted.to_owned(), found, fix: fix.to_owned() }
    }

    /// Whether it is so; none where nobody could tell.
    pub fn kept(&self) -> Option<bool> {
        self.found.as_ref().map(|found| *found == self.wanted)
    }

    /// How it is, in a sentence.
    pub fn told(&self) -> String {
        match &self.found {
            None => format!("{}: couldn't be found out", self.name),
            Some(found) => format!("{} is {found}, not {}", self.name, self.wanted),
        }
    }
}

/// Looks at everything. Programs are asked that only root may ask.
pub fn look(config: &Config) -> Vec<Rule> {
    let written = files(config).into_iter().map(|file| own::file(&file));
    let mut rules: Vec<Rule> = written.collect();
    rules.extend(own::units());
    rules.extend(sshd::check(config));
    rules.extend(fail2ban::check(&config.access));
    rules.extend(firewall::check(config));
    rules.extend(settings::check(config));
    rules.push(own::keys(config));
    rules.push(own::firmware());
    rules.push(own::listeners());
    rules.push(own::passwords());
    rules.push(own::secrets(config));
    rules
}

/// `failed` when a rule is broken, `partial` when nobody could tell of one.
pub fn outcome(rules: &[Rule]) -> Outcome {
    let states = rules.iter().map(|rule| match rule.kept() {
        Some(true) => Outcome::Complete,
        None => Outcome::Partial,
        Some(false) => Outcome::Failed,
    });
    states.max().unwrap_or(Outcome::Complete)
}

/// The table: a line for each rule, and below each that isn't kept what helps.
pub fn table(rules: &[Rule]) -> String {
    let width = rules.iter().map(|rule| rule.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut line = |words: Arguments| text.write_fmt(words).expect("writing to a string doesn't fail");
    for rule in rules {
        let word = match rule.kept() {
            Some(true) => "ok",
            Some(false) => "BROKEN",
            None => "unknown",
        };
        let name = format!("{:width$}", rule.name);
        line(format_args!("{word:7}  {name}  {}\n", rule.wanted));
        if rule.kept() != Some(true) {
            let found = rule.found.as_deref().unwrap_or("(couldn't be found out)");
            line(format_args!("         found: {found}\n         fix:   {}\n", rule.fix));
        }
    }
    let broken = rules.iter().filter(|rule| rule.kept() == Some(false)).count();
    let unknown = rules.iter().filter(|rule| rule.kept().is_none()).count();
    let kept = rules.len() - broken - unknown;
    line(format_args!("{} rules: {kept} kept, {broken} broken, {unknown} unknown\n", rules.len()));
    text
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::{Rule, outcome, table};
    use crate::outcome::Outcome;

    fn rule(found: Option<&str>) -> Rule {
        Rule::new("sshd: PermitRootLogin", "no", found.map(str::to_owned), "look")
    }

    #[test]
    fn the_worst_rule_makes_the_outcome() {
        let (kept, broken, unknown) = (rule(Some("no")), rule(Some("yes")), rule(None));
        assert_eq!(outcome(from_ref(&kept)), Outcome::Complete);
        assert_eq!(outcome(&[kept.clone(), unknown.clone()]), Outcome::Partial);
        assert_eq!(outcome(&[unknown, broken, kept]), Outcome::Failed);
    }

    #[test]
    fn the_table_says_what_helps_where_it_is_needed() {
        let text = table(&[rule(Some("no")), rule(Some("yes\u{1b}[2J"))]);
        assert_eq!(
            text,
            "ok       sshd: PermitRootLogin  no\nBROKEN   sshd: PermitRootLogin  no\n         found: yes\\u{1b}[2J\n         \
             fix:   look\n2 rules: 1 kept, 1 broken, 0 unknown\n"
        );
    }
}
