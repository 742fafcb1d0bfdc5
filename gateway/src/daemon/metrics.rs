//! The one place for names of metrics. All are read at the moment of asking from counters that their owners keep; the label
//! sets are closed: kinds of hooks and plugins of the configuration.

use std::sync::atomic::Ordering::Relaxed;

use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::admin::Admin;
use crate::data::streams::StreamCounters;
use crate::data::{BatchSizes, Counter, Rung, WorkerCounters};
use crate::hooks::KindStats;

/// Everything, in the text format of Prometheus.
///
/// # Errors
/// When a name stands twice: a fault of this file.
pub(super) fn render(admin: &Admin, sessions: u64) -> Result<String, prometheus::Error> {
    let sheet = Sheet { registry: Registry::new() };
    sheet.gauge("tessera_clients", "Clients with a peer-id", admin.directory.clients().into())?;
    sheet.gauge("tessera_sessions", "Sessions whose clients have logged in", sessions)?;
    sheet.gauge(
        "tessera_start_time_seconds",
        "When the gateway started, in seconds since 1970",
        admin.started,
    )?;
    data(&sheet, admin)?;
    streams(&sheet, admin)?;
    hooks(&sheet, admin)?;
    plugins(&sheet, admin)?;
    tokens(&sheet, admin)?;
    logins(&sheet, admin)?;
    let mut families: Vec<MetricFamily> = sheet.registry.gather();
    let kinds: Vec<(&str, &KindStats)> = admin.hooks.stats().kinds().collect();
    families.push(batches(admin));
    families.push(durations("tessera_hook_duration_seconds", "How long runs took", "hook", &kinds));
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// One of the things that a worker counts.
type Pick<T> = fn(&WorkerCounters) -> &T;
/// The same of its connections.
type PickStream = fn(&StreamCounters) -> &Counter;

fn data(sheet: &Sheet, admin: &Admin) -> Result<(), prometheus::Error> {
    let rungs =
        sheet.gauges("tessera_datapath_rung", "1 for the rung of the data path that is live", &["rung"])?;
    for rung in Rung::ALL {
        rungs.with_label_values(&[rung.name()]).set((rung == admin.datapath.rung()).into());
    }
    let workers = admin.data.counters();
    let sum = |pick: Pick<Counter>| workers.iter().map(|c| pick(c).read()).sum::<u64>();
    let packets =
        sheet.counters("tessera_data_packets_total", "Inner packets that passed", &["direction"])?;
    let bytes = sheet.counters("tessera_data_bytes_total", "Their bytes", &["direction"])?;
    packets.with_label_values(&["up"]).inc_by(sum(|c| &c.uplink_packets));
    packets.with_label_values(&["down"]).inc_by(sum(|c| &c.downlink_packets));
    bytes.with_label_values(&["up"]).inc_by(sum(|c| &c.uplink_bytes));
    bytes.with_label_values(&["down"]).inc_by(sum(|c| &c.downlink_bytes));
    let drops = sheet.counters("tessera_data_drops_total", "Packets that did not pass", &["reason"])?;
    let reasons: [(&str, Pick<Counter>); 16] = [
        ("unknown_peer", |c| &c.unknown_peer),
        ("unknown_key", |c| &c.unknown_key),
        ("bad_tag", |c| &c.bad_tag),
        ("replayed", |c| &c.replayed),
        ("malformed", |c| &c.malformed),
        ("spoofed", |c| &c.spoofed),
        ("no_route", |c| &c.no_route),
        ("no_key", |c| &c.no_key),
        ("uplink_over_share", |c| &c.uplink_over_share),
        ("downlink_over_share", |c| &c.downlink_over_share),
        ("tun_refused", |c| &c.tun_refused),
        ("handover_full", |c| &c.handover_full),
        ("shard_full", |c| &c.shard_full),
        ("send_full", |c| &c.send_dropped),
        ("stream_full", |c| &c.stream_full),
        ("send_refused", |c| &c.send_refused),
    ];
    for (reason, pick) in reasons {
        drops.with_label_values(&[reason]).inc_by(sum(pick));
    }
    let events = sheet.counters("tessera_data_events_total", "Detours of packets", &["event"])?;
    events.with_label_values(&["handed_over"]).inc_by(sum(|c| &c.handed_over));
    events.with_label_values(&["control_passed"]).inc_by(sum(|c| &c.control_passed));
    events.with_label_values(&["send_unsegmented"]).inc_by(sum(|c| &c.send_unsegmented));
    let programs = sheet.counters(
        "tessera_bpf_packets_total",
        "What BPF programs have seen",
        &["program", "verdict"],
    )?;
    for (program, counters) in admin.data.steering().counters() {
        for (reason, count) in counters.iter().filter(|(_, count)| *count > 0) {
            programs.with_label_values(&[program, reason.name()]).inc_by(count);
        }
    }
    Ok(())
}

/// TCP connections of clients, and those of others.
fn streams(sheet: &Sheet, admin: &Admin) -> Result<(), prometheus::Error> {
    let workers = admin.data.stream_counters();
    let sum = |pick: PickStream| workers.iter().map(|c| pick(c).read()).sum::<u64>();
    sheet.gauge("tessera_stream_connections", "TCP connections that are open", sum(|c| &c.open))?;
    let connections = sheet.counters(
        "tessera_stream_connections_total",
        "TCP connections, by what happened to them",
        &["event"],
    )?;
    let events: [(&str, PickStream); 9] = [
        ("accepted", |c| &c.accepted),
        ("refused", |c| &c.refused),
        ("accept_failed", |c| &c.accept_failed),
        ("foreign", |c| &c.foreign),
        ("ended", |c| &c.ended),
        ("bad_length", |c| &c.bad_length),
        ("timed_out", |c| &c.timed_out),
        ("evicted", |c| &c.evicted),
        ("stalled", |c| &c.stalled),
    ];
    for (event, pick) in events {
        connections.with_label_values(&[event]).inc_by(sum(pick));
    }
    let packets = sheet.counters("tessera_stream_packets_total", "Packets that came in over TCP", &[])?;
    packets.with_label_values::<&str>(&[]).inc_by(sum(|c| &c.packets));
    let Some(share) = &admin.share else { return Ok(()) };
    sheet.gauge(
        "tessera_port_share_active",
        "Connections that port-share carries",
        share.active.load(Relaxed),
    )?;
    let outcomes = sheet.counters(
        "tessera_port_share_connections_total",
        "Connections that are no client's, by what became of them",
        &["outcome"],
    )?;
    for (outcome, count) in
        [("proxied", &share.proxied), ("refused", &share.refused), ("unanswered", &share.unanswered)]
    {
        outcomes.with_label_values(&[outcome]).inc_by(count.load(Relaxed));
    }
    let bytes = sheet.counters("tessera_port_share_bytes_total", "Bytes that it carried", &["direction"])?;
    bytes.with_label_values(&["to_server"]).inc_by(share.to_server.load(Relaxed));
    bytes.with_label_values(&["to_client"]).inc_by(share.to_client.load(Relaxed));
    Ok(())
}

/// How many packets went together, by place.
fn batches(admin: &Admin) -> MetricFamily {
    let places: [(&str, Pick<BatchSizes>); 4] = [
        ("udp_receive", |c| &c.received_trains),
        ("udp_send", |c| &c.sent_trains),
        ("tun_write", |c| &c.tun_writes),
        ("tun_read", |c| &c.tun_reads),
    ];
    let workers = admin.data.counters();
    let metrics = places.into_iter().map(|(place, pick)| {
        let mut counts = [0u64; BatchSizes::CLASSES];
        for worker in workers {
            for (sum, count) in counts.iter_mut().zip(pick(worker).read()) {
                *sum += count;
            }
        }
        let ends = BatchSizes::BOUNDS.iter().map(|end| *end as f64);
        let batches = counts.iter().sum();
        let total = workers.iter().map(|worker| pick(worker).packets()).sum::<u64>();
        histogram("place", place, &ends.zip(counts).collect::<Vec<_>>(), batches, total as f64)
    });
    family("tessera_data_batch_packets", "How many packets went together, by place", metrics.collect())
}

fn hooks(sheet: &Sheet, admin: &Admin) -> Result<(), prometheus::Error> {
    let kinds: Vec<(&str, &KindStats)> = admin.hooks.stats().kinds().collect();
    sheet.calls("tessera_hook", "hook", &kinds)?;
    let now = sheet.gauges("tessera_hook_jobs", "Jobs by where they are now", &["hook", "stage"])?;
    for (kind, stats) in kinds {
        for (stage, jobs) in
            [("queued", stats.queued()), ("running", stats.running()), ("deferred", stats.deferred())]
        {
            now.with_label_values(&[kind, stage]).set(int(jobs));
        }
    }
    sheet.gauge(
        "tessera_plugin_deferred",
        "Answers that plugins have put off",
        admin.hooks.stats().plugins_deferred(),
    )
}

fn plugins(sheet: &Sheet, admin: &Admin) -> Result<(), prometheus::Error> {
    let up = sheet.gauges("tessera_plugin_up", "Whether the plugin is open", &["plugin"])?;
    let restarts = sheet.counters(
        "tessera_plugin_restarts_total",
        "How often its host was started again",
        &["plugin"],
    )?;
    let waiting = sheet.gauges("tessera_plugin_queue", "Calls that wait or run", &["plugin"])?;
    let calls =
        sheet.counters("tessera_plugin_calls_total", "Calls that ended", &["plugin", "call", "outcome"])?;
    for stats in admin.backends.plugins.stats() {
        up.with_label_values(&[&stats.name]).set(stats.open.load(Relaxed).into());
        restarts.with_label_values(&[&stats.name]).inc_by(stats.restarts.load(Relaxed));
        waiting.with_label_values(&[&stats.name]).set(int(stats.in_queue.load(Relaxed)));
        for (call, kind) in stats.kinds().filter(|(_, kind)| kind.runs() > 0) {
            let failed = kind.failures();
            calls.with_label_values(&[&stats.name, call, "yes"]).inc_by(kind.runs().saturating_sub(failed));
            calls.with_label_values(&[&stats.name, call, "failed"]).inc_by(failed);
        }
    }
    Ok(())
}

fn tokens(sheet: &Sheet, admin: &Admin) -> Result<(), prometheus::Error> {
    let (tokens, store) = (admin.vault.stats(), admin.vault.store_stats());
    sheet.gauge("tessera_token_entries", "Pushed tokens that are remembered", tokens.entries)?;
    let checks =
        sheet.counters("tessera_token_checks_total", "Pushed tokens that were presented", &["verdict"])?;
    for (verdict, count) in [
        ("valid", tokens.valid),
        ("unknown", tokens.unknown),
        ("wrong_client", tokens.wrong_client),
        ("expired", tokens.found_expired),
        ("revoked", tokens.found_revoked),
    ] {
        checks.with_label_values(&[verdict]).inc_by(count);
    }
    let events = sheet.counters("tessera_token_events_total", "What became of pushed tokens", &["event"])?;
    for (event, count) in [
        ("inserted", tokens.inserted),
        ("refreshed", tokens.refreshed),
        ("refused", tokens.refused),
        ("evicted", tokens.evicted),
        ("expired", tokens.expired),
        ("revoked", tokens.revoked),
    ] {
        events.with_label_values(&[event]).inc_by(count);
    }
    sheet.gauge("tessera_store_failing", "Whether the disk of the store fails", store.failing.into())?;
    sheet.gauge("tessera_store_bytes", "Bytes of the journal", store.size)?;
    let writes =
        sheet.counters("tessera_store_operations_total", "Operations of the store", &["operation"])?;
    for (operation, count) in [
        ("record", store.records),
        ("write", store.writes),
        ("sync", store.syncs),
        ("failure", store.failures),
        ("compaction", store.compactions),
        ("dropped", store.dropped),
    ] {
        writes.with_label_values(&[operation]).inc_by(count);
    }
    Ok(())
}

fn logins(sheet: &Sheet, admin: &Admin) -> Result<(), prometheus::Error> {
    let logins = sheet.counters(
        "tessera_account_logins_total",
        "Logins by auth-file or auth-pam",
        &["backend", "outcome"],
    )?;
    if let Some(accounts) = &admin.backends.accounts {
        let stats = accounts.stats();
        for (outcome, count) in [
            ("allowed", &stats.allowed),
            ("denied", &stats.denied),
            ("locked", &stats.locked),
            ("challenged", &stats.challenged),
            ("asked", &stats.asked),
            ("no_answer", &stats.no_answer),
            ("replayed", &stats.replayed),
        ] {
            logins.with_label_values(&["auth-file", outcome]).inc_by(count.load(Relaxed));
        }
    }
    if let Some(pam) = &admin.backends.pam {
        let stats = pam.stats();
        for (outcome, count) in [
            ("allowed", &stats.allowed),
            ("denied", &stats.denied),
            ("asked", &stats.asked),
            ("no_answer", &stats.no_answer),
        ] {
            logins.with_label_values(&["auth-pam", outcome]).inc_by(count.load(Relaxed));
        }
    }
    Ok(())
}

/// A registry for one answer.
struct Sheet {
    registry: Registry,
}

impl Sheet {
    fn gauge(&self, name: &str, help: &str, value: u64) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(int(value));
        self.registry.register(Box::new(gauge))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    /// Runs, failures, timeouts and rejections.
    fn calls(&self, name: &str, label: &str, kinds: &[(&str, &KindStats)]) -> Result<(), prometheus::Error> {
        let runs = self.counters(&format!("{name}_runs_total"), "Runs that ended", &[label])?;
        let failures =
            self.counters(&format!("{name}_failures_total"), "Runs that did not say yes", &[label])?;
        let timeouts =
            self.counters(&format!("{name}_timeouts_total"), "Runs that took too long", &[label])?;
        let rejected =
            self.counters(&format!("{name}_rejected_total"), "Jobs that found the queue full", &[label])?;
        for (kind, stats) in kinds {
            runs.with_label_values(&[kind]).inc_by(stats.runs());
            failures.with_label_values(&[kind]).inc_by(stats.failures());
            timeouts.with_label_values(&[kind]).inc_by(stats.timeouts());
            rejected.with_label_values(&[kind]).inc_by(stats.rejected());
        }
        Ok(())
    }
}

/// A histogram of each kind, from the buckets that its owner keeps.
fn durations(name: &str, help: &str, label: &str, kinds: &[(&str, &KindStats)]) -> MetricFamily {
    let metrics = kinds.iter().map(|(kind, stats)| {
        let mut before = 0;
        let counts = stats.durations().into_iter().map(|(end, cumulative)| {
            let count = cumulative - before;
            before = cumulative;
            (end, count)
        });
        histogram(
            label,
            kind,
            &counts.collect::<Vec<_>>(),
            stats.runs(),
            stats.total_duration().as_secs_f64(),
        )
    });
    family(name, help, metrics.collect())
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(metrics);
    family
}

/// One histogram of a family, from how many values fell into each class (its upper end, and the count); those beyond the last
/// are only in `count`.
fn histogram(label: &str, value: &str, classes: &[(f64, u64)], count: u64, sum: f64) -> Metric {
    let mut cumulative = 0;
    let buckets = classes.iter().map(|(end, in_class)| {
        cumulative += in_class;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*end);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    let mut of = LabelPair::default();
    of.set_name(label.to_owned());
    of.set_value(value.to_owned());
    let mut metric = Metric::default();
    metric.set_label(vec![of]);
    metric.set_histogram(histogram);
    metric
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_histogram() {
        let stats = KindStats::default();
        stats.ended(false, false, std::time::Duration::from_millis(20));
        stats.ended(true, false, std::time::Duration::from_secs(60));
        let family = durations("x_seconds", "help", "hook", &[("tls-verify", &stats)]);
        let mut text = Vec::new();
        TextEncoder::new().encode(&[family], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "# TYPE x_seconds histogram",
            "x_seconds_bucket{hook=\"tls-verify\",le=\"0.01\"} 0",
            "x_seconds_bucket{hook=\"tls-verify\",le=\"0.05\"} 1",
            "x_seconds_bucket{hook=\"tls-verify\",le=\"+Inf\"} 2",
            "x_seconds_sum{hook=\"tls-verify\"} 60.02",
            "x_seconds_count{hook=\"tls-verify\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
