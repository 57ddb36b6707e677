#!/usr/bin/env bash
# Standard Webhooks for Python 1.1.0: sign() with a time in another zone than UTC signs another moment, and nobody can
# verify it.
#
# Behaviour: Webhook.sign(id, time, body) takes a datetime and replaces its zone by UTC instead of converting it. For
# a time with the zone +08:00 the signed text has a timestamp eight hours ahead of the moment that the datetime stands
# for. The sender puts the right timestamp (datetime.timestamp()) into the header, and the signature does not fit. In
# UTC it does.
# Seen, the same moment each time, verified by the same library and by npm's standardwebhooks 1.1.1:
#   signed with a time in UTC:    Python accepts, npm accepts
#   signed with a time in +08:00: Python refuses, npm refuses (No matching signature found)
#   what Python signed in +08:00 is what npm signs for a moment 28800 s later: yes
# Why it matters: a sender that works on a machine set to UTC fails for every receiver once it is given local times
# that are perfectly exact. Give it datetime.now(timezone.utc), or sign by hand.
# Needs: python3 with venv, node, npm. Takes about 10 seconds.
set -euo pipefail
for tool in python3 node npm; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check standardwebhooks==1.1.0
(cd "$work" && echo '{"private":true}' >package.json && npm install --silent --no-audit --no-fund standardwebhooks@1.1.1)

cat >"$work/sign.py" <<'END'
import json
import time
from datetime import datetime, timedelta, timezone

from standardwebhooks import Webhook, WebhookVerificationError

secret = "whsec_bWFkZSBmb3IgdGhpcyBmaW5kaW5nIGFsb25lLi4u"
body = '{"orderId":1}'
webhook = Webhook(secret)
moment = int(time.time())
calls = []

for name, zone in (("UTC", timezone.utc), ("+08:00", timezone(timedelta(hours=8)))):
    when = datetime.fromtimestamp(moment, zone)
    assert int(when.timestamp()) == moment
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": webhook.sign("msg_1", when, body),
    }
    try:
        webhook.verify(body, headers)
        answer = "accepts"
    except WebhookVerificationError as error:
        answer = f"refuses ({error})"
    calls.append({"zone": name, "headers": headers, "python": answer})

print(json.dumps({"secret": secret, "body": body, "moment": moment, "calls": calls}))
END

cat >"$work/verify.js" <<'END'
const { Webhook } = require("standardwebhooks");
const { secret, body, moment, calls } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const webhook = new Webhook(secret);

for (const call of calls) {
  let npm = "accepts";
  try {
    webhook.verify(body, call.headers);
  } catch (error) {
    npm = `refuses (${error.message})`;
  }
  console.log(`signed with a time in ${call.zone}: Python ${call.python}, npm ${npm}`);
}

const later = webhook.sign("msg_1", new Date((moment + 8 * 3600) * 1000), body);
const same = later === calls[1].headers["webhook-signature"];
console.log(`what Python signed in +08:00 is what npm signs for a moment 28800 s later: ${same ? "yes" : "no"}`);
END

"$work/venv/bin/python" "$work/sign.py" >"$work/calls.json"
(cd "$work" && node verify.js <calls.json) | tee "$work/seen"

if grep -q "in UTC: Python accepts, npm accepts" "$work/seen" &&
    grep -q "in +08:00: Python refuses .*, npm refuses" "$work/seen" && grep -q "later: yes" "$work/seen"; then
    echo "As stated: the zone is replaced, not converted."
else
    echo "Not as stated." >&2
    exit 1
fi
