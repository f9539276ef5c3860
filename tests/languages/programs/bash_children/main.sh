# A filter: bash, which calls child programs in pipelines, substitutions and in the background.
read -r asked
count=$(($(cat /tmp/calls 2>/dev/null || echo 0) + 1))
echo "$count" >/tmp/calls
text=$(sed 's/.*"text": "\([^"]*\)".*/\1/' <<<"$asked")
number=$(sed 's/.*"number": \([0-9]*\).*/\1/' <<<"$asked")
sum=$(seq 0 "$number" | mawk '{ sum += $1 * $1 } END { print sum }')
random=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
(exit 7) &
wait $!
status=$?
sorted=$(printf '%s\n' c a b | sort | tr -d '\n')
printf '{"text": "%s", "count": %d, "sum": %d, "random": "%s", "status": %d, "sorted": "%s", "version": "%s"}' \
    "$text" "$count" "$sum" "$random" "$status" "$sorted" "${BASH_VERSION%%(*}"
