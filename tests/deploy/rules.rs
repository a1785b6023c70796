//! Rules of Prometheus: each alert says whom it wakes, has a page in the runbook and a test of both sides.
use super::{deploy, texts};
use std::collections::BTreeSet;

/// A rule of deploy/prometheus/rules. Only alerts have a severity.
pub struct Rule {
    pub name: String,
    pub expression: String,
    pub severity: Option<String>,
    runbook: Option<String>,
}

/// All rules. Their files are written in one way, so lines are enough to read them: Prometheus' own tools check the rest.
pub fn all() -> Vec<Rule> {
    let mut found: Vec<Rule> = Vec::new();
    for (_, text) in texts("prometheus/rules", "yml") {
        let mut in_expression = false;
        for line in text.lines() {
            let (key, value) =
                line.trim().trim_start_matches("- ").split_once(": ").unwrap_or((line.trim(), ""));
            let starts =
                line.trim_start().starts_with("- alert: ") || line.trim_start().starts_with("- record: ");
            if starts {
                let (name, expression) = (value.to_owned(), String::new());
                found.push(Rule { name, expression, severity: None, runbook: None });
                in_expression = false;
                continue;
            }
            let Some(rule) = found.last_mut() else { continue };
            match key {
                "expr" => {
                    in_expression = true;
                    rule.expression.push_str(value.trim_start_matches('|'));
                }
                "for" | "annotations:" | "- name" => in_expression = false,
                "labels" => {
                    in_expression = false;
                    rule.severity =
                        Some(value.trim_start_matches("{severity: ").trim_end_matches('}').to_owned());
                }
                "runbook" => rule.runbook = Some(value.to_owned()),
                _ if in_expression && !line.trim_start().starts_with('#') => {
                    rule.expression.push(' ');
                    rule.expression.push_str(line.trim());
                }
                _ => {}
            }
        }
    }
    found
}

fn alerts() -> Vec<Rule> {
    let found: Vec<Rule> = all().into_iter().filter(|rule| rule.name.starts_with("Newshound")).collect();
    assert!(found.len() >= 15, "found only {} alerts", found.len());
    found
}

#[test]
fn every_rule_has_an_expression_and_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for rule in all() {
        assert!(rule.expression.contains("newshound"), "{}: {:?}", rule.name, rule.expression);
        assert!(names.insert(rule.name.clone()), "{} comes twice", rule.name);
    }
}

#[test]
fn every_alert_says_whom_it_wakes_and_has_a_page_in_the_runbook() {
    let runbook = std::fs::read_to_string(deploy().join("runbook.md")).unwrap();
    let pages: Vec<&str> =
        runbook.split("\n## ").skip(1).filter_map(|page| page.split('\n').next()).collect();
    let alerts = alerts();
    for alert in &alerts {
        let severity = alert.severity.as_deref();
        assert!(matches!(severity, Some("page" | "ticket")), "{}: {severity:?}", alert.name);
        let anchor = format!("deploy/runbook.md#{}", alert.name.to_lowercase());
        assert_eq!(alert.runbook, Some(anchor), "{}", alert.name);
        assert!(pages.contains(&alert.name.as_str()), "deploy/runbook.md has no page {}", alert.name);
    }
    for page in pages {
        assert!(alerts.iter().any(|alert| alert.name == page), "no alert is called {page}");
    }
}

#[test]
fn every_alert_is_tested_where_it_fires_and_where_it_does_not() {
    let tests: String = texts("prometheus/tests", "yml").into_iter().map(|(_, text)| text).collect();
    for alert in alerts() {
        let cases: Vec<&str> = tests.split("alertname: ").skip(1).collect();
        let of_it = cases.iter().filter(|case| case.lines().next() == Some(&alert.name));
        let silent: BTreeSet<bool> =
            of_it.map(|case| case.lines().nth(1).is_some_and(|line| line.ends_with("[]"))).collect();
        assert_eq!(silent.len(), 2, "{} is tested on one side only, or not at all", alert.name);
    }
}
