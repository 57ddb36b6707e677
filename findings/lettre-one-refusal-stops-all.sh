#!/usr/bin/env bash
# lettre 0.11.23: a server that refuses one recipient of a mail costs the others theirs; Python's smtplib delivers to
# them.
#
# Behaviour: SMTP answers each RCPT TO for itself. lettre gives the whole mail up at the first refusal, whichever
# place the recipient has, and the recipients that the server had taken get nothing. Its error has the server's text
# only. smtplib sends to those that were taken and returns the refused ones.
# Seen (the server refuses gone@example.org with 550 "no such user", and says nothing about the address):
#   lettre, good then gone: error, permanent error (550): no such user; delivered: nobody
#   lettre, gone then good: error, permanent error (550): no such user; delivered: nobody
#   lettre, good alone: sent; delivered: good@example.org
#   smtplib, good then gone: sent, refused gone@example.org; delivered: good@example.org
#   smtplib, gone then good: sent, refused gone@example.org; delivered: good@example.org
# Why it matters: one dead address in a list of people to alert silences the alert for all of them, for good, since a
# 550 is not worth a repetition. A service moved from Python loses what it had. Send one mail for each recipient.
# Needs: cargo, python3 with venv. Takes about 1 minute.
set -euo pipefail
for tool in cargo python3; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check aiosmtpd==1.4.6

# The server writes the recipients of each mail that it takes into a file.
cat >"$work/server.py" <<'END'
import sys
import time

from aiosmtpd.controller import Controller


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("gone@"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        with open(sys.argv[2], "a") as delivered:
            delivered.write(" ".join(envelope.rcpt_tos) + "\n")
        return "250 OK"


Controller(Handler(), hostname="127.0.0.1", port=int(sys.argv[1])).start()
time.sleep(3600)
END
port=$(free_port)
"$work/venv/bin/python" "$work/server.py" "$port" "$work/delivered" >"$work/server.log" 2>&1 &
server=$!
for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.2; done

cat >"$work/send.py" <<'END'
import smtplib
import sys
from email.message import EmailMessage

mail = EmailMessage()
mail["From"] = "shop@example.org"
mail["To"] = ", ".join(sys.argv[2:])
mail["Subject"] = "Order 1"
mail.set_content("It was paid.")
with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as smtp:
    refused = smtp.send_message(mail)
print("sent" + "".join(f", refused {address}" for address in refused))
END

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'END'
[package]
name = "program"
version = "0.0.0"
edition = "2021"

[dependencies]
lettre = { version = "=0.11.23", default-features = false, features = ["builder", "smtp-transport"] }

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
use lettre::{Message, SmtpTransport, Transport};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let server = SmtpTransport::builder_dangerous("127.0.0.1").port(arguments[1].parse()?).build();

    let mut mail = Message::builder().from("shop@example.org".parse()?).subject("Order 1");
    for recipient in &arguments[2..] {
        mail = mail.to(recipient.parse()?);
    }

    match server.send(&mail.body("It was paid.".to_owned())?) {
        Ok(_) => println!("sent"),
        Err(error) => println!("error, {error}"),
    }
    Ok(())
}
END
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
cargo build --quiet --manifest-path "$work/program/Cargo.toml"
lettre() { "$CARGO_TARGET_DIR/debug/program" "$port" "$@"; }
smtplib() { "$work/venv/bin/python" "$work/send.py" "$port" "$@"; }

# try CLIENT WORDS RECIPIENTS: what it says, and who got the mail.
try() {
    : >"$work/delivered"
    local answer who
    answer=$("$1" "${@:3}")
    who=$(tr '\n' ' ' <"$work/delivered")
    echo "$1, $2: $answer; delivered: ${who:-nobody}" | sed 's/ *$//'
}
{
    try lettre "good then gone" good@example.org gone@example.org
    try lettre "gone then good" gone@example.org good@example.org
    try lettre "good alone" good@example.org
    try smtplib "good then gone" good@example.org gone@example.org
    try smtplib "gone then good" gone@example.org good@example.org
} | tee "$work/seen"

if [ "$(grep -c '^lettre, .* then .*: error, .*550.*; delivered: nobody$' "$work/seen")" = 2 ] &&
    grep -q '^lettre, good alone: sent; delivered: good@example.org$' "$work/seen" &&
    [ "$(grep -c '^smtplib, .*: sent, refused gone@example.org; delivered: good@example.org$' "$work/seen")" = 2 ]; then
    echo "As stated: one refusal stops the mail for everybody with lettre, and not with smtplib."
else
    echo "Not as stated." >&2
    exit 1
fi
