# The matrix's script through ruby-pg, which stands on libpq's asynchronous interface.

require "pg"
require_relative "report"

TABLE = "check_ruby"
SESSIONS = 12

def connect
  connection = PG.connect(host: URL.host, port: URL.port, user: URL.user, password: URL.password, dbname: URL.path[1..], connect_timeout: 60, **TLS)
  return connection unless block_given?

  begin
    yield connection
  ensure
    connection.close
  end
end

def value(connection, statement, parameters = [])
  connection.exec_params(statement, parameters).getvalue(0, 0)
end

def fails(code)
  yield
rescue PG::Error => error
  equal(error.result&.error_field(PG::PG_DIAG_SQLSTATE), code)
else
  raise "#{code} was expected"
end

def crud
  connect do |connection|
    connection.exec("DROP TABLE IF EXISTS #{TABLE}")
    connection.exec("CREATE TABLE #{TABLE} (id int PRIMARY KEY, note text)")
    10.times { |number| connection.exec_params("INSERT INTO #{TABLE} VALUES ($1, $2)", [number, "note #{number}"]) }
    equal(connection.exec_params("UPDATE #{TABLE} SET note = $1 WHERE id < $2", ["changed", 5]).cmd_tuples, 5)
    equal(connection.exec_params("DELETE FROM #{TABLE} WHERE id = $1", [9]).cmd_tuples, 1)
    found = connection.exec_params("SELECT id FROM #{TABLE} WHERE note = $1 ORDER BY id", ["changed"])
    equal(found.column_values(0), %w[0 1 2 3 4])
  end
end

def parameters
  sent = { "int4" => "42", "int8" => "9007199254740993", "numeric" => "12345.6789", "text" => "Grüße, 世界", "bool" => "t", "int4[]" => "{1,2,NULL}" }
  connect do |connection|
    sent.each { |kind, text| equal(value(connection, "SELECT $1::#{kind}", [text]), text) }
    bytes = (0..255).to_a.pack("C*")
    equal(connection.exec_params("SELECT $1::bytea", [{ value: bytes, format: 1 }], 1).getvalue(0, 0), bytes)
    equal(value(connection, "SELECT $1::text", [nil]), nil)
  end
end

def transactions
  connect do |connection|
    before = value(connection, "SELECT count(*) FROM #{TABLE}").to_i
    connection.transaction { connection.exec("INSERT INTO #{TABLE} VALUES (100, 'kept')") }
    connection.exec("BEGIN")
    connection.exec("INSERT INTO #{TABLE} VALUES (101, 'dropped')")
    connection.exec("ROLLBACK")
    equal(value(connection, "SELECT count(*) FROM #{TABLE}").to_i, before + 1)
  end
end

def error_in_transaction
  connect do |connection|
    connection.exec("BEGIN")
    connection.exec("INSERT INTO #{TABLE} VALUES (102, 'dropped')")
    fails("22012") { connection.exec_params("SELECT 1 / $1::int", [0]) }
    fails("25P02") { connection.exec("SELECT 1") }
    equal(connection.transaction_status, PG::PQTRANS_INERROR)
    connection.exec("ROLLBACK")
    equal(value(connection, "SELECT count(*) FROM #{TABLE} WHERE id = 102"), "0")
  end
end

def error_codes
  connect do |connection|
    fails("23505") { connection.exec("INSERT INTO #{TABLE} VALUES (1, 'again')") }
    fails("42P01") { connection.exec("SELECT * FROM no_such_table") }
    fails("22012") { connection.exec("SELECT 1 / 0") }
    equal(value(connection, "SELECT 1"), "1")
  end
end

def multi_statement
  connect do |connection|
    connection.send_query("SELECT 1; SELECT 2; SELECT 3")
    found = []
    while (result = connection.get_result)
      found << result.getvalue(0, 0)
    end
    equal(found, %w[1 2 3])
    fails("22012") { connection.exec("SELECT 1; SELECT 1 / 0; SELECT 3") }
    equal(value(connection, "SELECT 4"), "4")
  end
end

def prepared
  connect do |connection|
    connection.prepare("one_more", "SELECT $1::int + 1")
    20.times { |number| equal(connection.exec_prepared("one_more", [number]).getvalue(0, 0), (number + 1).to_s) }
    equal(connection.describe_prepared("one_more").nparams, 1)
    equal(connection.exec("SELECT name, from_sql FROM pg_prepared_statements").values, [%w[one_more f]])
    equal(value(connection, "EXECUTE one_more (41)"), "42")
  end
end

def pipeline
  connect do |connection|
    connection.enter_pipeline_mode
    5.times { |number| connection.send_query_params("SELECT $1::int * 2", [number]) }
    connection.pipeline_sync
    found = 5.times.map do
      doubled = connection.get_last_result.getvalue(0, 0)
      doubled.to_i
    end
    equal(found, [0, 2, 4, 6, 8])
    equal(connection.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
    connection.exit_pipeline_mode
    equal(value(connection, "SELECT 1"), "1")
  end
end

# More sessions than server connections stay open; each has a statement and settings of its own.
def sessions
  all = Array.new(SESSIONS) { connect }
  all.each_with_index do |connection, number|
    connection.exec("SET work_mem = '#{1000 + number}kB'")
    connection.exec_params("SELECT set_config('app.session', $1, false)", [number.to_s])
    connection.prepare("mine", "SELECT $1::int + #{number}")
  end
  threads = all.each_with_index.map do |connection, number|
    Thread.new do
      8.times do |turn|
        equal(connection.exec_prepared("mine", [turn]).getvalue(0, 0), (turn + number).to_s)
        equal(value(connection, "SHOW work_mem"), "#{1000 + number}kB")
        equal(value(connection, "SELECT current_setting('app.session')"), number.to_s)
        fails("22012") { connection.exec_params("SELECT 1 / $1::int", [0]) } if turn == 4
      end
    end
  end
  finish(threads)
ensure
  all&.each(&:close)
end

def copy
  connect do |connection|
    connection.transaction do
      connection.exec("TRUNCATE #{TABLE}")
      connection.copy_data("COPY #{TABLE} FROM STDIN") do
        10_000.times { |number| connection.put_copy_data("#{number}\trow #{number}\n") }
      end
      total = 0
      connection.copy_data("COPY (SELECT id FROM #{TABLE}) TO STDOUT") do
        while (row = connection.get_copy_data)
          total += row.to_i
        end
      end
      equal(total, (0...10_000).sum)
    end
  end
end

def copy_error
  connect do |connection|
    fails("22P02") { connection.copy_data("COPY #{TABLE} FROM STDIN") { connection.put_copy_data("not a number\tx\n") } }
    equal(value(connection, "SELECT 1"), "1")
  end
end

def cancel
  connect do |connection|
    connect do |observer|
      connection.send_query("SELECT pg_sleep(60) /* #{TABLE} sleeps */")
      sleeping = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%* #{TABLE} sleeps *%' AND pid <> pg_backend_pid()"
      sleep 0.05 while value(observer, sleeping) == "0"
      connection.cancel
      fails("57014") { connection.get_last_result }
      equal(value(connection, "SELECT 1"), "1")
    end
  end
end

def big_values
  big = "x" * 5_000_000
  connect do |connection|
    equal(value(connection, "SELECT $1::text", [big]), big)
    equal(value(connection, "SELECT repeat('y', 5000000)"), "y" * 5_000_000)
  end
end

# An answer whose last part stays behind in the TLS library would keep its reader waiting for ever.
def answers_of_every_size
  connect do |connection|
    (1_000..120_000).step(811) do |size|
      found = connection.exec_params("SELECT repeat('x', $1) FROM generate_series(1, 10)", [size / 10])
      equal(found.column_values(0), ["x" * (size / 10)] * 10)
    end
  end
end

def notices
  heard = []
  connect do |connection|
    connection.set_notice_receiver { |result| heard << [result.error_field(PG::PG_DIAG_SEVERITY), result.error_field(PG::PG_DIAG_MESSAGE_PRIMARY)] }
    connection.exec("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$")
  end
  equal(heard, [["NOTICE", "hear me"]])
end

def listens
  connect do |listener|
    connect do |speaker|
      listener.exec("LISTEN #{TABLE}")
      # What one says to oneself is there with the answer.
      listener.exec("NOTIFY #{TABLE}, 'to myself'")
      equal(listener.notifies&.fetch(:extra), "to myself")
      speaker.transaction do
        speaker.exec("SELECT pg_notify('#{TABLE}', 'first')")
        speaker.exec("NOTIFY #{TABLE}, 'second'")
      end
      heard = []
      2.times { listener.wait_for_notify(60) { |channel, _, payload| heard << [channel, payload] } }
      equal(heard, [[TABLE, "first"], [TABLE, "second"]])
      listener.exec("UNLISTEN #{TABLE}")
      listener.exec("NOTIFY #{TABLE}")
      equal(listener.notifies, nil)
    end
  end
end

def concurrent
  threads = Array.new(CONCURRENT) do |number|
    Thread.new do
      connect do |connection|
        connection.exec_params("INSERT INTO #{TABLE} VALUES ($1, $2)", [100_000 + number, "client #{number}"])
        equal(value(connection, "SELECT note FROM #{TABLE} WHERE id = $1", [100_000 + number]), "client #{number}")
      end
    end
  end
  finish(threads)
  connect do |connection|
    equal(value(connection, "SELECT count(*) FROM #{TABLE} WHERE id >= 100000"), CONCURRENT.to_s)
    connection.exec("DROP TABLE #{TABLE}")
  end
end

run(%i[crud parameters transactions error_in_transaction error_codes multi_statement prepared pipeline sessions copy copy_error cancel
       big_values answers_of_every_size notices listens concurrent])
