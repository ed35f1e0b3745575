#!/bin/sh
# Calls a new, empty library (examples/library) with curl, and shows each command and its answer.
# Usage: run.sh [HOST:PORT]     (localhost:8000 if not given)
set -eu
address="${1:-localhost:8000}"

# Shows a command, runs it against $address, and shows what it says.
run() {
    printf '$ %s\n' "$1"
    answer=$(eval "$(printf '%s\n' "$1" | sed "s#localhost:8000#$address#g")")
    printf '%s\n\n' "$answer"
}

echo "# Two shelves. The body is the shelf; the field beside it comes in the query."
run "curl -s 'localhost:8000/v1/shelves?shelfId=history' --json '{\"title\": \"History\"}'"
run "curl -s 'localhost:8000/v1/shelves?shelfId=rome' --json '{}'"

echo "# A book, and two more as a stream of requests: one line of JSON for each."
run "curl -s 'localhost:8000/v1/shelves/history/books?bookId=spqr' --json '{
    \"title\": \"SPQR\", \"authors\": [\"Mary Beard\"], \"genre\": \"HISTORY\", \"isbn\": \"9781631492228\",
    \"publishTime\": \"2015-10-20T00:00:00Z\"}'"
run "printf '%s\n' \\
    '{\"parent\": \"shelves/history\", \"bookId\": \"histories\", \"book\": {\"title\": \"The Histories\"}}' \\
    '{\"parent\": \"shelves/history\", \"bookId\": \"emma\", \"book\": {\"title\": \"Emma\", \"genre\": \"FICTION\"}}' |
    curl -s localhost:8000/v1/books:import -H 'Content-Type: application/x-ndjson' --data-binary @-"

echo "# By name, and by the second rule of the same method."
run "curl -s localhost:8000/v1/shelves/history/books/emma"
run "curl -s localhost:8000/v1/isbn/9781631492228"

echo "# Query parameters: a repeated enum and a number; a time inside a message."
run "curl -s 'localhost:8000/v1/books?genres=HISTORY&genres=FICTION&pageSize=1'"
run "curl -s 'localhost:8000/v1/books?published.after=2000-01-01T00:00:00Z'"

echo "# A list as the whole answer."
run "curl -s localhost:8000/v1/shelves"

echo "# Only what the mask names is changed."
run "curl -s -X PATCH 'localhost:8000/v1/shelves/history/books/emma?updateMask=pageCount' --json '{\"pageCount\": 474}'"

echo "# A verb of its own."
run "curl -s localhost:8000/v1/shelves/history/books/spqr:move --json '{\"target\": \"shelves/rome\"}'"

echo "# A stream of answers: lines of JSON, or events, or one array."
run "curl -s localhost:8000/v1/shelves/history/books:export"
run "curl -s localhost:8000/v1/shelves/history/books:export -H 'Accept: text/event-stream'"
run "curl -s localhost:8000/v1/shelves/history/books:export -H 'Accept: application/json'"

echo "# Every method is also at its gRPC name; Connect clients call it there."
run "curl -s localhost:8000/library.v1.LibraryService/GetShelf \\
    -H 'Connect-Protocol-Version: 1' --json '{\"name\": \"shelves/rome\"}'"

echo "# Refusals: by the library with its details, for a wrong parameter, for a wrong method, and in Connect's form."
run "curl -s localhost:8000/v1/shelves/history/books/none"
run "curl -s -X DELETE localhost:8000/v1/shelves/history"
run "curl -s 'localhost:8000/v1/books?genre=HISTORY'"
run "curl -s -o /dev/null -w '%{http_code}' -X PUT localhost:8000/v1/shelves"
run "curl -s localhost:8000/library.v1.LibraryService/GetShelf \\
    -H 'Connect-Protocol-Version: 1' --json '{\"name\": \"shelves/none\"}'"

echo "# All away again."
run "curl -s -X DELETE 'localhost:8000/v1/shelves/history?force=true'"
run "curl -s -X DELETE 'localhost:8000/v1/shelves/rome?force=true'"
