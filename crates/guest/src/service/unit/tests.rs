//! Unit files as people write them, and as they get them wrong.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::service::unit_file::{parse_duration, split_command};

fn parse(name: &str, text: &str) -> Result<Unit, UnitError> {
    Unit::parse(name, PathBuf::from("/x"), text)
}

#[test]
fn a_whole_unit_is_read() {
    let unit = parse(
        "web@blue.service",
        "# comment\n[Unit]\nDescription=Web %i of %p (100%%)\nAfter=a.service b.service\nAfter=c.service\n\
         [Service]\nType=forking\nExecStart=/bin/web -n \"two words\" \\\n  # between\n  --instance=%I\n\
         ExecStop=-/bin/stop\nRestart=on-failure\nRestartSec=1min 500ms\nEnvironment=A=1 \"B=two words\"\n\
         PIDFile=/run/web.pid\nRemainAfterExit=yes\nWorkingDirectory=/srv\nSomethingNew=7\n\
         [Install]\nWantedBy=multi-user.target\n",
    )
    .unwrap();
    assert_eq!(unit.description, "Web blue of web (100%)");
    assert_eq!(unit.after, ["a.service", "b.service", "c.service"]);
    assert_eq!(unit.service_type, ServiceType::Forking);
    assert_eq!(unit.exec_start[0].argv, ["/bin/web", "-n", "two words", "--instance=blue"]);
    assert!(unit.exec_stop[0].may_fail);
    assert_eq!(unit.restart, Restart::OnFailure);
    assert_eq!(unit.restart_delay, Duration::from_millis(60_500));
    assert_eq!(unit.environment, [("A".into(), "1".into()), ("B".into(), "two words".into())]);
    assert!(unit.remain_after_exit);
    assert_eq!(unit.wanted_by, ["multi-user.target"]);
}

#[test]
fn what_cannot_run_is_refused() {
    for text in [
        "[Service]\n",
        "[Service]\nExecStart=/a\nExecStart=/b\n",
        "[Service]\nExecStart=/a \"b\n",
        "[Service]\nType=strange\nExecStart=/a\n",
        "[Service]\nExecStart=-\n",
    ] {
        assert!(matches!(parse("a.service", text), Err(UnitError::Bad(_))), "{text}");
    }
    assert!(parse("a.service", "[Service]\nType=oneshot\nExecStart=/a\nExecStart=/b\n").is_ok());
    let unit = parse("a.service", "[Service]\nExecStart=/a\nExecStart=\nExecStart=/b\n").unwrap();
    assert_eq!(unit.exec_start[0].argv, ["/b"]);
}

#[test]
fn names_cannot_leave_the_directory() {
    for bad in ["", "../etc/passwd", "a/b", ".hidden", "a b", "a\n"] {
        assert!(full_name(bad).is_err(), "{bad:?}");
    }
    assert_eq!(full_name("httpd").unwrap(), "httpd.service");
    assert_eq!(full_name("dhcp@eth0.service").unwrap(), "dhcp@eth0.service");
}

#[test]
fn the_first_directory_wins_and_templates_serve_instances() {
    let root = std::env::temp_dir().join(format!("visor-unit-{}", std::process::id()));
    for (path, text) in [
        ("usr/lib/systemd/system/a.service", "[Service]\nExecStart=/usr\n"),
        ("etc/systemd/system/a.service", "[Service]\nExecStart=/etc\n"),
        ("usr/lib/systemd/system/t@.service", "[Service]\nExecStart=/t %i\n"),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    assert_eq!(Unit::load(&root, "a.service").unwrap().exec_start[0].argv, ["/etc"]);
    assert_eq!(Unit::load(&root, "t@x.service").unwrap().exec_start[0].argv, ["/t", "x"]);
    assert!(matches!(Unit::load(&root, "b.service"), Err(UnitError::NotFound)));
    assert_eq!(list(&root), ["a.service", "t@.service"]);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn words_and_spans() {
    assert_eq!(split_command("a  'b c'd \\x \"\"").unwrap(), ["a", "b cd", "x", ""]);
    assert_eq!(split_command("a\\"), None);
    assert_eq!(parse_duration("5"), Some(Duration::from_secs(5)));
    assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
    for bad in ["", "s", "5 parsecs", "1e999999", "99999999999999999999999999h"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}
