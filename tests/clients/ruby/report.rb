# Runs the checks of one client and prints a line for each; the last line counts them.

require "timeout"
require "uri"

DEADLINE_SECONDS = 90
URL = URI(ENV.fetch("DATABASE_URL"))
AUTHORITY = ENV["PGSSLROOTCERT"]
TLS = AUTHORITY ? { sslmode: "verify-full", sslrootcert: AUTHORITY } : { sslmode: "disable" }
CONCURRENT = (ARGV.include?("--concurrent") ? ARGV[ARGV.index("--concurrent") + 1] : 200).to_i
# What has one client wait, in a session that it keeps, for what another does.
NEEDS_TWO = %i[cancel listens migrations]

def equal(found, expected)
  raise "expected #{expected.inspect[0, 200]}, found #{found.inspect[0, 200]}" unless found == expected
end

# Waits for threads; what went wrong in one goes wrong here.
def finish(threads)
  threads.each { |thread| thread.report_on_exception = false }.each(&:join)
end

def run(checks)
  $stdout.sync = true
  counts = { ok: 0, FAIL: 0, skip: 0 }
  checks.each do |name|
    outcome, words = check(name)
    counts[outcome] += 1
    puts "#{outcome.to_s.ljust(4)} #{name}#{words && ": #{words}"}"
  end
  puts "#{counts[:ok]} passed, #{counts[:FAIL]} failed, #{counts[:skip]} skipped"
  exit(counts[:FAIL].zero? ? 0 : 1)
end

def check(name)
  return [:skip, "it needs two server connections"] if NEEDS_TWO.include?(name) && ENV["ONE_CONNECTION"]

  Timeout.timeout(DEADLINE_SECONDS) { send(name) }
  [:ok, nil]
rescue StandardError => error
  puts error.backtrace if ENV["VERBOSE"]
  [:FAIL, "#{error.class}: #{error.message.split.join(" ")}"]
end
