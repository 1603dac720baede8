#!/bin/sh
# Run once before the servers: the store's tables, a user, the policies. Again it changes nothing.
set -eu
if ! safeguard user list --store "$STORE" 2>/dev/null | grep -q '^admin '; then
    safeguard user add admin --role admin --password-stdin --store "$STORE" < /run/secrets/admin_password
fi
for policy in /usr/share/safeguard/policies/*/policy.md; do
    name=$(basename "$(dirname "$policy")")
    safeguard policy publish "$name" "$policy" --note "compose" --store "$STORE"
done
