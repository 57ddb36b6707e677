//! `ruyi mq dlq`: what it refuses, and how it reads long queues.

use serde_json::json;

use crate::support::dead_letters::{exported, import, journal, letter};
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_commands_are_refused_with_their_exit_code() {
    let away = Operator::new("127.0.0.1:1");
    for command in ["list", "browse g", "group g", "replay g --yes", "export g", "discard g --yes --reason x"] {
        let args: Vec<&str> = ["mq", "dlq"].into_iter().chain(command.split(' ')).collect();
        let said = away.refuses(&args, 1).await;
        assert!(said.contains("127.0.0.1:1") && said.contains("help: "), "{command}: {said}");
    }
    for wrong in [
        "browse g --id nonsense",
        "browse g --since yesterday",
        "replay g --rps 0",
        "replay g --max-fail 101",
        "replay g --yes --dry-run",
        "show g",
        "edit g a:0:0 --field nothing",
    ] {
        let args: Vec<&str> = ["mq", "dlq"].into_iter().chain(wrong.split(' ')).collect();
        away.refuses(&args, 2).await;
    }
    let Some(apache) = apache().await else { return };
    let operator = Operator::new(&apache.namesrv());
    let group = unique("told-group");
    let said = operator.refuses(&["mq", "dlq", "replay", &group, "--yes"], 1).await;
    assert!(said.contains(&format!("%DLQ%{group}")) && said.contains("help: "), "{said}");

    let big = format!(r#"{{"points":1,"text":"{}"}}"#, "x".repeat(150_000));
    import(&operator, &[letter(&group, 1, "one"), letter(&group, 2, &big), letter(&group, 3, "three")].concat()).await;
    let near = &group[..group.len() - 1];
    let said = operator.refuses(&["mq", "dlq", "browse", near], 1).await;
    assert!(said.contains(&format!("did you mean {group}")), "{said}");
    // Nobody can be asked here.
    let (before, lines) = (exported(&operator, &group).await, journal(&operator).len());
    operator.refuses(&["mq", "dlq", "replay", &group], 2).await;
    operator.refuses(&["mq", "dlq", "discard", &group, "--reason", "old"], 2).await;
    operator.refuses(&["mq", "dlq", "discard", &group, "--yes"], 2).await;
    operator.refuses(&["mq", "dlq", "edit", &group, before[0]["id"].as_str().unwrap()], 2).await;
    let said = operator.refuses(&["mq", "dlq", "replay", &group, "--id", "a:0:99", "--yes"], 1).await;
    assert!(said.contains("a:0:99"), "{said}");
    operator.refuses(&["mq", "dlq", "show", &group, "a:0:99"], 1).await;
    operator.refuses(&["mq", "dlq", "show", &group, "nobody:0:1"], 1).await;
    let bad_line = operator.run_with(&["mq", "dlq", "import", "-", "--yes"], b"{}\n").await;
    assert_eq!(bad_line.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad_line.stderr).contains("line 1 of -"), "{bad_line:?}");
    assert_eq!(journal(&operator).len(), lines, "a refusal is no change");

    // What was on a broker goes there again, whatever is the limit of what is made here.
    let replay = ["mq", "dlq", "replay", &group, "--yes", "--ramp", "0s", "--watch", "0s"];
    let small = [&replay[..], &["--set", "mq.producer.max_message=100KiB"]].concat();
    let items = operator.items(&small).await;
    assert_eq!((&items[0]["sent"], &items[0]["failed"]), (&json!(3), &json!(0)));
}

/// What the broker does not take is told in its own words: the others go, and the exit code says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_refuses_is_told_as_it_says() {
    let Some(apache) = apache().await else { return };
    let plain = Operator::with(&[&format!("mq.namesrv={}", apache.namesrv()), "mq.producer.compress_over=100MiB"]);
    let group = unique("large-letters");
    let large = "x".repeat((4 << 20) + 1);
    let lines = [letter(&group, 1, "one"), letter(&group, 2, &large), letter(&group, 3, "three")].concat();
    let import = ["mq", "dlq", "import", "-", "--yes", "--output", "json"];
    let output = plain.run_with(&import, lines.as_bytes()).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("line 2: the broker refused it (13)"), "{stderr}");
    assert_eq!(exported(&plain, &group).await.len(), 2);
}

/// The most memory that a command had, in KiB.
async fn peak(operator: &Operator, args: &[&str]) -> u64 {
    let mut child = operator.command(args).stdout(std::process::Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id().unwrap());
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_queue_is_read_in_little_memory() {
    let Some(apache) = apache().await else { return };
    let operator = Operator::new(&apache.namesrv());
    let group = unique("large-group");
    // 75 MB when they are read, little on the wire.
    let body = "x".repeat(50_000);
    let lines: String = (0..1_500).map(|number| letter(&group, number, &body)).collect();
    import(&operator, &lines).await;
    let items = operator.items(&["mq", "dlq", "group", &group]).await;
    assert_eq!((items.len(), &items[0]["count"]), (1, &json!(1_500)), "{items:?}");
    assert_eq!(items[0]["reason"], "user # is unknown");
    let least = peak(&operator, &["mq", "dlq", "list"]).await;
    for command in [&["group", &group][..], &["browse", &group, "--limit", "100000"], &["replay", &group, "--dry-run"]]
    {
        let most = peak(&operator, &[&["mq", "dlq"], command].concat()).await;
        assert!(most < least + 40_000, "{command:?}: {most} KiB, and {least} KiB to list");
    }
}
