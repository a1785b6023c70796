//! What operators get in deploy/: dashboards, rules and the runbook speak of metrics and alerts that exist.
//!
//! Here stands what needs nothing but the files. What needs real parts is in tests/deploy/: Prometheus, HAProxy, containers, Kubernetes' schemas.
mod dashboards;
mod image;
mod rules;

use newshound::serve::settings::ServeSettings;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Metrics that no panel and no rule looks at, and why.
const EXEMPT: &[(&str, &str)] =
    &[("process_virtual_memory_bytes", "addresses cost nothing; it is there because tools expect it")];

/// Whether this is a name of ours, or one that all processes share; a recorded one (`job:newshound_..`) too.
fn is_metric(word: &str) -> bool {
    word.contains("newshound_") || word.starts_with("process_")
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// (path relative to deploy/, text) of the files of a folder of it with an extension, sorted.
fn texts(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(deploy().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|found| found == extension) {
            let name = path.strip_prefix(deploy()).unwrap().to_string_lossy().into_owned();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{extension} in deploy/{folder}");
    found
}

/// Words that can be names of metrics.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(move |c| !inside(c)).filter(|word| is_metric(word))
}

/// Names of src/serve/metrics/table.rs.
fn exported() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/metrics/table.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let names = source.split('"').filter(|text| is_metric(text) && !text.contains(' '));
    names.map(str::to_owned).collect()
}

/// The metric whose series this is: of a histogram, the parts carry its name and a suffix.
fn metric_of<'a>(series: &'a str, exported: &BTreeSet<String>) -> &'a str {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    histogram.filter(|name| exported.contains(*name)).unwrap_or(series)
}

/// Expressions of all dashboards and rules.
fn queries() -> Vec<String> {
    let mut found = Vec::new();
    found.extend(dashboards::all().iter().flat_map(dashboards::expressions));
    found.extend(rules::all().into_iter().map(|rule| rule.expression));
    found
}

#[test]
fn dashboards_rules_and_scalers_speak_of_metrics_that_exist() {
    let exported = exported();
    let recorded: BTreeSet<String> = rules::all().into_iter().map(|rule| rule.name).collect();
    let scalers = ["keda", "hpa"].map(|name| texts(&format!("kubernetes/components/{name}"), "yaml"));
    let scalers = scalers.into_iter().flatten().map(|(_, text)| text);
    for query in queries().into_iter().chain(scalers) {
        for name in names_in(&query) {
            let known = exported.contains(metric_of(name, &exported)) || recorded.contains(name);
            assert!(known, "nobody exports or records {name}: {query}");
        }
    }
}

#[test]
fn every_metric_is_looked_at() {
    let exported = exported();
    let queries = queries();
    let used: BTreeSet<&str> =
        queries.iter().flat_map(|query| names_in(query)).map(|name| metric_of(name, &exported)).collect();
    for name in &exported {
        let exempt = EXEMPT.iter().any(|(exempt, _)| exempt == name);
        let looked_at = used.contains(name.as_str());
        assert!(looked_at || exempt, "no panel and no rule looks at {name}: deploy/grafana/*.py");
        assert!(!(looked_at && exempt), "{name} is looked at and need not be exempt");
    }
    for (name, _) in EXEMPT {
        assert!(exported.contains(*name), "nobody exports {name}, which is exempt");
    }
}

/// A setting that is misspelt would be seen when the first pod starts.
#[test]
fn settings_of_the_cluster_are_settings() {
    let file = deploy().join("kubernetes/base/server.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let settings = ServeSettings::read(&text, "server.toml", &[]).unwrap();
    assert!(settings.grpc_addr.ip().is_unspecified() && settings.http_addr.ip().is_unspecified());
}

/// Whichever scaler a cluster has, it holds servers at the same pressure.
#[test]
fn both_scalers_aim_at_the_same_pressure() {
    let target = |name: &str, key: &str| -> f64 {
        let text = std::fs::read_to_string(deploy().join(format!("kubernetes/components/{name}/scale.yaml")));
        let text = text.unwrap();
        assert_eq!(names_in(&text).collect::<Vec<_>>(), ["newshound_pressure"], "{name}");
        let (_, after) = text.split_once(&format!("{key}: \"")).unwrap();
        after.split('"').next().unwrap().parse().unwrap()
    };
    let (hpa, keda) = (target("hpa", "averageValue"), target("keda", "threshold"));
    assert_eq!(hpa, keda);
    assert!(hpa > 0.0 && hpa < 1.0, "{hpa} is never reached, or never left");
}

/// What the runbook puts between quotes is a panel to look at.
#[test]
fn the_runbook_points_at_panels_that_exist() {
    let titles: BTreeSet<String> = dashboards::all().iter().flat_map(dashboards::titles).collect();
    let runbook = std::fs::read_to_string(deploy().join("runbook.md")).unwrap();
    // Labels in code have quotes too.
    let prose: String = runbook.split('`').step_by(2).collect();
    let quoted: BTreeSet<&str> = prose.split('"').skip(1).step_by(2).collect();
    assert!(quoted.len() >= 10, "found only {quoted:?}");
    for title in quoted {
        assert!(titles.contains(title), "no panel is called {title:?}");
    }
}

#[test]
fn every_recorded_series_is_looked_at() {
    let queries = queries();
    let used: BTreeSet<&str> = queries.iter().flat_map(|query| names_in(query)).collect();
    for rule in rules::all().into_iter().filter(|rule| rule.severity.is_none()) {
        assert!(used.contains(rule.name.as_str()), "{} is recorded for nobody", rule.name);
    }
}
