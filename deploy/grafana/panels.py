"""What a panel is here, and how it becomes Grafana's."""
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Rules record per job and namespace: what a fleet promises is not what one of its servers does.
OF_THE_JOB = 'job=~"$job", namespace=~"$namespace"'
JOB = "{{namespace}} {{job}}"
SELECTOR = f'{OF_THE_JOB}, instance=~"$instance"'
CHOSEN_EXPERIMENTS = 'experiment=~"$experiment"'
CHOSEN_ARMS = f'{CHOSEN_EXPERIMENTS}, arm=~"$arm"'
GRID_WIDTH = 24


@dataclass(frozen=True)
class Query:
    """A PromQL expression and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One question and the queries that answer it.

    `kind`: lines, stack, stat or heatmap. `unit`: a unit of Grafana's.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "lines"
    highest: float | None = None


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    # Beside job and instance: name, label and series of each, later ones among what earlier ones choose.
    variables: tuple[tuple[str, str, str], ...] = ()


def metric(name, where=""):
    return f"{name}{{{SELECTOR}{', ' if where else ''}{where}}}"


def rate(name, where="", by=""):
    """Sum of the rates of a counter's series, one for each value of the labels `by`."""
    grouped = f" by ({by}) " if by else ""
    return f"sum{grouped}(rate({metric(name, where)}[$__rate_interval]))"


def ratio(part, whole):
    return f"{part} / {whole}"


def mean(name, where="", by=""):
    """Mean of what a histogram recorded."""
    return ratio(rate(f"{name}_sum", where, by), rate(f"{name}_count", where, by))


def quantile(q, name, where="", by=""):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', where, labels)})"


def quantiles(name, where="", label=""):
    """Median, 95th and 99th percentile of a histogram."""
    label = f"{label} " if label else ""
    return tuple(
        Query(quantile(q, name, where), f"{label}p{round(q * 100)}") for q in (0.5, 0.95, 0.99)
    )


def build(described):
    built = (
        dashboard.Dashboard(described.title)
        .uid(described.uid)
        .description(described.description)
        .tags(["newshound"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(label_variable("job", "Job", "newshound_build_info"))
        # A fleet outside a cluster has none.
        .with_variable(label_variable("namespace", "Namespace", 'newshound_build_info{job=~"$job"}').all_value(".*"))
        .with_variable(label_variable("instance", "Instance", f"newshound_build_info{{{OF_THE_JOB}}}"))
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(DATASOURCE)
            .expr('ALERTS{alertname=~"Newshound.*", alertstate="firing", ' + OF_THE_JOB + "}")
            .icon_color("red")
            .enable(True)
        )
        .link(
            dashboard.DashboardLink("newshound")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["newshound"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in described.variables:
        built = built.with_variable(label_variable(*variable))
    for row in described.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel, width in zip(row.panels, widths(row.panels), strict=True):
            built = built.with_panel(visual(panel).span(width))
    return built.build()


def widths(panels):
    """Three panels fill a line, or six numbers; those of a last line that is not full share it."""
    per_line = 6 if panels[0].kind == "stat" else 3
    n_last = len(panels) % per_line
    return [GRID_WIDTH // per_line] * (len(panels) - n_last) + [GRID_WIDTH // max(n_last, 1)] * n_last


def label_variable(name, label, series):
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(text="All", value="$__all"))
    )


def visual(panel):
    kinds = {"lines": lines, "stack": stack, "stat": single, "heatmap": heat}
    built = (
        kinds[panel.kind]()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .height(4 if panel.kind == "stat" else 8)
    )
    if panel.kind != "heatmap":
        built = built.min(0)
    if panel.highest is not None:
        built = built.max(panel.highest)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend).datasource(DATASOURCE)
        target = target.instant() if panel.kind == "stat" else target.range()
        if panel.kind == "heatmap":
            target = target.format(PromQueryFormat.HEATMAP)
        built = built.with_target(target)
    return built


def lines():
    legend = common.VizLegendOptions().show_legend(True).placement(options.LegendPlacement.BOTTOM)
    legend = legend.display_mode(options.LegendDisplayMode.LIST).calcs([])
    tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    return timeseries.Panel().line_width(1).fill_opacity(5).legend(legend).tooltip(tooltip)


def stack():
    return lines().fill_opacity(40).stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))


def single():
    return stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def heat():
    colors = heatmap.HeatmapColorOptions().mode(heatmaps.HeatmapColorMode.SCHEME).scheme("Oranges").steps(32)
    return heatmap.Panel().calculate(False).color(colors)
