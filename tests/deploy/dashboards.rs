//! Dashboards keep the rules of Grafana's dashboard-linter, whose names stand before each complaint.
//!
//! Source of the rules: <https://github.com/grafana/dashboard-linter>, docs/index.md. Whether queries can be read, and find anything, is
//! asked of a real Prometheus by tests/deploy/observe.py.
use super::texts;
use serde_json::Value as Json;
use std::collections::BTreeSet;

const PANELS_MIN: usize = 30;
/// Units that panels may have; Grafana shows a unit that it does not know as if it were a word after the number.
const UNITS: [&str; 6] = ["short", "s", "percentunit", "bytes", "reqps", "cps"];
const SELECTORS: [&str; 3] = ["job=~\"$job\"", "namespace=~\"$namespace\"", "instance=~\"$instance\""];
const INTERVAL: &str = "[$__rate_interval]";

/// All dashboards.
pub fn all() -> Vec<Json> {
    texts("grafana/dashboards", "json").iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect()
}

/// Titles of the panels.
pub fn titles(dashboard: &Json) -> Vec<String> {
    panels(dashboard).map(|panel| text(&panel["title"]).to_owned()).collect()
}

/// Expressions of the panels.
pub fn expressions(dashboard: &Json) -> Vec<String> {
    let targets = panels(dashboard).flat_map(|panel| list(&panel["targets"]));
    targets.map(|target| text(&target["expr"]).to_owned()).collect()
}

fn panels(dashboard: &Json) -> impl Iterator<Item = &Json> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row")
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap_or_default()
}

/// Everything that is wrong, each with the name of the rule first.
fn complaints(dashboard: &Json) -> Vec<String> {
    let mut found = variables(dashboard);
    if dashboard["editable"] != false {
        found.push("uneditable-dashboard-rule: it can be edited".to_owned());
    }
    let mut titles = BTreeSet::new();
    for panel in panels(dashboard) {
        let title = text(&panel["title"]);
        let complaints = of_panel(panel);
        found.extend(complaints.map(|(rule, what)| format!("{rule}: {title}: {what}")));
        if !titles.insert(title) {
            found.push(format!("panel-title-description-rule: {title} comes twice"));
        }
        for target in list(&panel["targets"]) {
            let complaints = of_target(target);
            found.extend(complaints.into_iter().map(|(rule, what)| format!("{rule}: {title}: {what}")));
        }
    }
    found
}

/// Variables that panels choose series by, with those that all need.
fn chosen(dashboard: &Json) -> BTreeSet<&str> {
    let targets = panels(dashboard).flat_map(|panel| list(&panel["targets"]));
    let queries = targets.map(|target| text(&target["expr"]));
    let names =
        queries.flat_map(|query| query.split("=~\"$").skip(1)).filter_map(|rest| rest.split('"').next());
    names.chain(["job", "namespace", "instance"]).collect()
}

fn variables(dashboard: &Json) -> Vec<String> {
    let variables = list(&dashboard["templating"]["list"]);
    let named =
        |name: &str| variables.iter().find(|variable| variable["name"] == name).unwrap_or(&Json::Null);
    let mut found = Vec::new();
    let datasource = named("datasource");
    if datasource["type"] != "datasource"
        || datasource["query"] != "prometheus"
        || datasource["label"] != "Data source"
    {
        found.push("template-datasource-rule: no variable for the data source".to_owned());
    }
    for name in chosen(dashboard) {
        let variable = named(name);
        let label = name[..1].to_uppercase() + &name[1..];
        let right = variable["type"] == "query"
            && variable["label"] == label
            && variable["multi"] == true
            // A fleet outside a cluster has no namespace.
            && variable["allValue"] == (if name == "namespace" { ".*" } else { ".+" })
            && variable["datasource"]["uid"] == "${datasource}";
        if !right {
            found.push(format!("template-{name}-rule: no variable, or another form than others have"));
        }
        let query = text(&variable["query"]);
        if !query.starts_with("label_values(newshound_") || !query.ends_with(&format!(", {name})")) {
            found.push(format!("template-label-promql-rule: {name}: {query}"));
        }
        // 2: whenever the time range changes.
        if variable["refresh"] != 2 {
            found.push(format!("template-on-time-change-reload-rule: {name}"));
        }
    }
    found
}

fn of_panel(panel: &Json) -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
    [
        (panel["datasource"]["uid"] == "${datasource}", "panel-datasource-rule", "another data source"),
        (text(&panel["title"]).len() > 2, "panel-title-description-rule", "no title"),
        (text(&panel["description"]).ends_with('.'), "panel-title-description-rule", "no sentence"),
        (UNITS.contains(&unit), "panel-units-rule", "no unit that Grafana knows"),
        (!list(&panel["targets"]).is_empty(), "panel-no-targets-rule", "no query"),
    ]
    .into_iter()
    .filter(|(right, ..)| !right)
    .map(|(_, rule, what)| (rule, what))
}

fn of_target(target: &Json) -> Vec<(&'static str, String)> {
    let expression = text(&target["expr"]);
    let mut found = Vec::new();
    if target["datasource"]["type"] != "prometheus" {
        found.push(("target-logql-rule", "no query of Prometheus".to_owned()));
    }
    let depth = expression.chars().fold(0, |depth: i32, c| depth + i32::from(c == '(') - i32::from(c == ')'));
    if expression.is_empty() || depth != 0 {
        found.push(("target-promql-rule", expression.to_owned()));
    }
    let ranges = expression.match_indices('[').map(|(at, _)| &expression[at..]);
    if ranges.clone().any(|range| !range.starts_with(INTERVAL)) {
        found.push(("target-rate-interval-rule", expression.to_owned()));
    }
    let rules = ["target-job-rule", "target-namespace-rule", "target-instance-rule"];
    for (rule, selector) in rules.into_iter().zip(SELECTORS) {
        // Rules record for a job what its servers did together.
        let recorded = (expression.starts_with("job:") || expression.starts_with("job_"))
            && rule == "target-instance-rule";
        let selected = expression.matches('{').count() == expression.matches(selector).count();
        if !recorded && (!selected || !expression.contains('{')) {
            found.push((rule, expression.to_owned()));
        }
    }
    let of_arms = ["newshound_arm_", "experiment_arm:"].iter().any(|name| expression.contains(name));
    let chosen = expression.matches("experiment=~\"$experiment\"").count();
    if of_arms && chosen != expression.matches('{').count() {
        found.push(("template-experiment-rule", expression.to_owned()));
    }
    for (at, _) in expression.match_indices("_total{") {
        let name_at =
            expression[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        let counted = ["rate(", "increase("].iter().any(|function| expression[..name_at].ends_with(function));
        if !counted {
            found.push(("target-counter-agg-rule", expression.to_owned()));
        }
    }
    found
}

#[test]
fn dashboards_keep_the_rules_of_the_linter() {
    let dashboards = all();
    for dashboard in &dashboards {
        assert_eq!(complaints(dashboard), Vec::<String>::new(), "{}", dashboard["uid"]);
    }
    let n_panels: usize = dashboards.iter().map(|dashboard| panels(dashboard).count()).sum();
    assert!(n_panels >= PANELS_MIN, "only {n_panels} panels");
}

/// Titles of a preview's panels and rows, as preview.py writes them.
fn drawn(preview: &str) -> Vec<&str> {
    let after = preview.split("font-weight=\"bold\">").skip(1);
    after.filter_map(|rest| rest.split("</text>").next()).collect()
}

fn escaped(title: &str) -> String {
    let letters = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#x27;")];
    letters.into_iter().fold(title.to_owned(), |title, (letter, name)| title.replace(letter, name))
}

/// Previews are drawn where somebody asks for them (grafana/README.md), and not when panels change.
#[test]
fn previews_show_every_panel_and_no_other() {
    let previews = texts("grafana/preview", "svg");
    for dashboard in all() {
        let name = format!("grafana/preview/{}.svg", text(&dashboard["uid"]));
        let (_, preview) = previews.iter().find(|(path, _)| *path == name).expect(&name);
        let titles: Vec<String> =
            list(&dashboard["panels"]).iter().map(|panel| escaped(text(&panel["title"]))).collect();
        assert_eq!(drawn(preview), titles, "{name} is old: deploy/grafana/README.md says how it is drawn");
    }
}

#[test]
fn the_linter_sees_every_kind_of_mistake() {
    let check = |rule: &str, place: &str, value: Json| {
        let mut broken = all().swap_remove(0);
        *broken.pointer_mut(place).unwrap() = value;
        let found = complaints(&broken);
        assert!(found.iter().any(|complaint| complaint.starts_with(rule)), "{rule} {place}: {found:?}");
    };
    // The first panel is a row.
    let panel = |path: &str| format!("/panels/1/{path}");
    let expression = panel("targets/0/expr");
    let selectors = SELECTORS.join(", ");
    let selected = format!("newshound_ready{{{selectors}}}");
    let without = |idx: usize| selected.replace(SELECTORS[idx], "version=\"1\"");
    check("template-datasource-rule", "/templating/list/0/query", "loki".into());
    check("template-job-rule", "/templating/list/1/multi", false.into());
    check("template-instance-rule", "/templating/list/3/name", "host".into());
    check("template-namespace-rule", "/templating/list/2/allValue", ".+".into());
    check("template-label-promql-rule", "/templating/list/1/query", "newshound_ready".into());
    check("template-on-time-change-reload-rule", "/templating/list/3/refresh", 1.into());
    check("uneditable-dashboard-rule", "/editable", true.into());
    check("panel-datasource-rule", &panel("datasource/uid"), "mine".into());
    check("panel-title-description-rule", &panel("title"), "".into());
    check("panel-title-description-rule", &panel("description"), "".into());
    check("panel-title-description-rule", "/panels/2/title", all()[0]["panels"][1]["title"].clone());
    check("panel-units-rule", &panel("fieldConfig/defaults/unit"), "meters of fun".into());
    check("panel-no-targets-rule", &panel("targets"), Json::Array(Vec::new()));
    check("target-logql-rule", &panel("targets/0/datasource/type"), "loki".into());
    check("target-promql-rule", &expression, format!("sum({selected}").into());
    check("target-rate-interval-rule", &expression, format!("rate({selected}[5m])").into());
    check("target-job-rule", &expression, without(0).into());
    check("target-namespace-rule", &expression, without(1).into());
    check("target-instance-rule", &expression, without(2).into());
    let of_arms = format!("rate(newshound_arm_events_total{{{selectors}}}{INTERVAL})");
    let chosen = of_arms.replace('}', ", experiment=~\"$experiment\"}");
    check("template-experiment-rule", &expression, of_arms.into());
    // The first dashboard has no such variable.
    check("template-experiment-rule: no variable", &expression, chosen.into());
    check("target-counter-agg-rule", &expression, selected.replace("_ready", "_outcomes_total").into());
}
