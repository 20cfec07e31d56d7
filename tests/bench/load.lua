-- The same POST again and again. Arguments: the file with its body; then `unique` for heads that are all different, as
-- behind a mesh, or the size that the backend must have received.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  wrong = 0
  if args[2] == "unique" then
    local count = 0
    request = function()
      count = count + 1
      wrk.headers["X-Request-Id"] = string.format("7f9c24e8-3b0a-4d51-9e37-%012d", count)
      wrk.headers["Traceparent"] = string.format("00-4bf92f3577b34da6a3ce%012x-00f067aa0ba902b7-01", count)
      return wrk.format()
    end
  elseif args[2] then
    local least = tonumber(args[2])
    -- Defined only here: with a response function wrk parses every header, which costs more than a small request.
    response = function(status, headers)
      if (tonumber(headers["X-Received"] or headers["x-received"]) or 0) <= least then
        wrong = wrong + 1
      end
    end
  end
end

function done(summary, latency)
  local wrong_total = 0
  for _, thread in ipairs(threads) do
    wrong_total = wrong_total + thread:get("wrong")
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"bytes":%.0f,"duration_us":%.0f,"status":%d,"broken":%d,"wrong":%d,"p50_us":%.0f,"p99_us":%.0f}\n',
    summary.requests, summary.bytes, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, wrong_total,
    latency:percentile(50), latency:percentile(99)))
end
