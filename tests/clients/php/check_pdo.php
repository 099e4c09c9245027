<?php
// The matrix's script through PDO: named statements of the protocol that it lets go of by DEALLOCATE, in a text.
declare(strict_types=1);

const TABLE = 'check_pdo';
const SESSIONS = 12;
// What has one client wait, in a session that it keeps, for what another does.
const NEEDS_TWO = ['listens'];

// PHP has no threads: so many sessions are open at once, and take turns.
$concurrent = in_array('--concurrent', $argv, true) ? (int) $argv[array_search('--concurrent', $argv, true) + 1] : 200;

function connect(array $options = []): PDO
{
    $url = parse_url(getenv('DATABASE_URL'));
    $authority = getenv('PGSSLROOTCERT');
    $tls = $authority ? "sslmode=verify-full;sslrootcert=$authority" : 'sslmode=disable';
    $where = "pgsql:host={$url['host']};port={$url['port']};dbname=" . substr($url['path'], 1) . ";connect_timeout=60;$tls";
    return new PDO($where, $url['user'], $url['pass'], $options + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function equal(mixed $found, mixed $expected): void
{
    if ($found !== $expected) {
        throw new Exception('expected ' . substr(var_export($expected, true), 0, 200) . ', found ' . substr(var_export($found, true), 0, 200));
    }
}

function fails(string $code, callable $work): void
{
    try {
        $work();
    } catch (PDOException $error) {
        equal($error->errorInfo[0], $code);
        return;
    }
    throw new Exception("$code was expected");
}

function value(PDO $connection, string $text, array $parameters = []): mixed
{
    $statement = $connection->prepare($text);
    $statement->execute($parameters);
    return $statement->fetchColumn();
}

function crud(): void
{
    $connection = connect();
    $connection->exec('DROP TABLE IF EXISTS ' . TABLE);
    $connection->exec('CREATE TABLE ' . TABLE . ' (id int PRIMARY KEY, note text)');
    $insert = $connection->prepare('INSERT INTO ' . TABLE . ' VALUES (?, ?)');
    foreach (range(0, 9) as $number) {
        equal($insert->execute([$number, "note $number"]), true);
    }
    $update = $connection->prepare('UPDATE ' . TABLE . ' SET note = :note WHERE id < :id');
    $update->execute(['note' => 'changed', 'id' => 5]);
    equal($update->rowCount(), 5);
    equal($connection->exec('DELETE FROM ' . TABLE . ' WHERE id = 9'), 1);
    $found = $connection->query('SELECT id FROM ' . TABLE . " WHERE note = 'changed' ORDER BY id")->fetchAll(PDO::FETCH_COLUMN);
    equal($found, [0, 1, 2, 3, 4]);
}

function parameters(): void
{
    $connection = connect();
    $sent = ['int4' => 42, 'int8' => 9007199254740993, 'numeric' => '12345.6789', 'text' => 'Grüße, 世界', 'int4[]' => '{1,2,NULL}', 'jsonb' => '{"a": [1, null]}'];
    foreach ($sent as $kind => $expected) {
        equal(value($connection, "SELECT ?::$kind", [$expected]), $expected);
    }
    $bytes = implode('', array_map('chr', range(0, 255)));
    $statement = $connection->prepare('SELECT ?::bytea');
    $statement->bindParam(1, $bytes, PDO::PARAM_LOB);
    $statement->execute();
    equal(stream_get_contents($statement->fetchColumn()), $bytes);
    equal(value($connection, 'SELECT ?::text', [null]), null);
}

function transactions(): void
{
    $connection = connect();
    $before = value($connection, 'SELECT count(*) FROM ' . TABLE);
    $connection->beginTransaction();
    $connection->exec('INSERT INTO ' . TABLE . " VALUES (100, 'kept')");
    $connection->commit();
    $connection->beginTransaction();
    $connection->exec('INSERT INTO ' . TABLE . " VALUES (101, 'dropped')");
    $connection->rollBack();
    equal(value($connection, 'SELECT count(*) FROM ' . TABLE), $before + 1);
}

function error_in_transaction(): void
{
    $connection = connect();
    $connection->beginTransaction();
    $connection->exec('INSERT INTO ' . TABLE . " VALUES (102, 'dropped')");
    fails('22012', fn () => value($connection, 'SELECT 1 / ?::int', [0]));
    fails('25P02', fn () => $connection->query('SELECT 1'));
    $connection->rollBack();
    equal(value($connection, 'SELECT count(*) FROM ' . TABLE . ' WHERE id = 102'), 0);
}

function error_codes(): void
{
    $connection = connect();
    fails('23505', fn () => value($connection, 'INSERT INTO ' . TABLE . " VALUES (?, 'again')", [1]));
    fails('42P01', fn () => $connection->query('SELECT * FROM no_such_table'));
    fails('22012', fn () => $connection->query('SELECT 1 / 0'));
    equal(value($connection, 'SELECT 1'), 1);
}

// Each is prepared by name at its first use, the one that counts them too, and let go of by a DEALLOCATE when PHP collects it.
function prepared(): void
{
    $connection = connect();
    $named = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pdo_stmt_%'";
    $statement = $connection->prepare('SELECT ?::int + 1');
    for ($number = 0; $number < 20; $number++) {
        $statement->execute([$number]);
        equal($statement->fetchColumn(), $number + 1);
    }
    equal($connection->query($named)->fetchColumn(), 2);
    unset($statement);
    equal($connection->query($named)->fetchColumn(), 1);
    for ($number = 0; $number < 50; $number++) {
        equal(value($connection, "SELECT ?::int + $number", [$number]), 2 * $number);
    }
    equal($connection->query($named)->fetchColumn(), 1);
}

// The two ways in which PDO does without names.
function unprepared(): void
{
    foreach ([[PDO::ATTR_EMULATE_PREPARES => true], [PDO::PGSQL_ATTR_DISABLE_PREPARES => true]] as $options) {
        $connection = connect($options);
        for ($number = 0; $number < 20; $number++) {
            equal((int) value($connection, 'SELECT ?::int * 3', [$number]), $number * 3);
        }
        equal($connection->query('SELECT count(*) FROM pg_prepared_statements')->fetchColumn(), 0);
    }
}

// More sessions than server connections stay open and take turns; each has statements and settings of its own.
function sessions(): void
{
    $all = [];
    for ($number = 0; $number < SESSIONS; $number++) {
        $connection = connect();
        $connection->exec("SET work_mem = '" . (1000 + $number) . "kB'");
        value($connection, "SELECT set_config('app.session', ?, false)", [(string) $number]);
        $all[] = [$connection, $connection->prepare("SELECT ?::int + $number")];
    }
    for ($turn = 0; $turn < 8; $turn++) {
        foreach ($all as $number => [$connection, $statement]) {
            $statement->execute([$turn]);
            equal($statement->fetchColumn(), $turn + $number);
            equal($connection->query('SHOW work_mem')->fetchColumn(), (1000 + $number) . 'kB');
            equal($connection->query("SELECT current_setting('app.session')")->fetchColumn(), (string) $number);
            if ($turn === 4) {
                fails('22012', fn () => value($connection, 'SELECT 1 / ?::int', [0]));
            }
        }
    }
}

function cursors(): void
{
    $connection = connect();
    $connection->beginTransaction();
    $statement = $connection->prepare('SELECT n FROM generate_series(1, 5000) AS n', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $statement->execute();
    equal($statement->fetchColumn(), 1);
    equal($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 4000), [4000]);
    equal($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_PRIOR), [3999]);
    unset($statement);
    $connection->commit();
}

function copy_rows(): void
{
    $connection = connect();
    $connection->exec('TRUNCATE ' . TABLE);
    $rows = array_map(fn ($number) => "$number\trow $number", range(0, 9999));
    equal($connection->pgsqlCopyFromArray(TABLE, $rows), true);
    $found = $connection->pgsqlCopyToArray(TABLE);
    equal([count($found), rtrim($found[9999])], [10000, "9999\trow 9999"]);
    fails('22P02', fn () => $connection->pgsqlCopyFromArray(TABLE, ["not a number\tx"]));
    equal(value($connection, 'SELECT 1'), 1);
}

function large_objects(): void
{
    $connection = connect();
    $connection->beginTransaction();
    $oid = $connection->pgsqlLOBCreate();
    $stream = $connection->pgsqlLOBOpen($oid, 'w');
    fwrite($stream, str_repeat('large ', 10_000));
    fclose($stream);
    $stream = $connection->pgsqlLOBOpen($oid, 'r');
    equal(stream_get_contents($stream), str_repeat('large ', 10_000));
    fclose($stream);
    equal($connection->pgsqlLOBUnlink($oid), true);
    $connection->commit();
}

function big_values(): void
{
    $connection = connect();
    $big = str_repeat('x', 5_000_000);
    equal(value($connection, 'SELECT ?::text', [$big]), $big);
    equal(value($connection, "SELECT repeat('y', 5000000)"), str_repeat('y', 5_000_000));
}

function answers_of_every_size(): void
{
    $connection = connect();
    for ($size = 1000; $size < 120_000; $size += 811) {
        equal(value($connection, "SELECT repeat('x', ?)", [$size]), str_repeat('x', $size));
    }
}

function listens(): void
{
    [$listener, $speaker] = [connect(), connect()];
    $listener->exec('LISTEN ' . TABLE);
    $speaker->beginTransaction();
    $speaker->exec('NOTIFY ' . TABLE . ", 'first'");
    $speaker->exec('NOTIFY ' . TABLE . ", 'second'");
    $speaker->commit();
    foreach (['first', 'second'] as $words) {
        equal($listener->pgsqlGetNotify(PDO::FETCH_ASSOC, 60_000)['payload'], $words);
    }
}

function concurrent(): void
{
    global $concurrent;
    $all = [];
    for ($number = 0; $number < $concurrent; $number++) {
        $all[] = $connection = connect();
        equal(value($connection, 'INSERT INTO ' . TABLE . ' VALUES (?, ?) RETURNING id', [100_000 + $number, "client $number"]), 100_000 + $number);
    }
    foreach ($all as $number => $connection) {
        equal(value($connection, 'SELECT note FROM ' . TABLE . ' WHERE id = ?', [100_000 + $number]), "client $number");
    }
    equal(value($all[0], 'SELECT count(*) FROM ' . TABLE . ' WHERE id >= 100000'), $concurrent);
    $all[0]->exec('DROP TABLE ' . TABLE);
}

set_time_limit(300);
error_reporting(E_ALL & ~E_DEPRECATED);
$passed = $failed = $skipped = 0;
$checks = ['crud', 'parameters', 'transactions', 'error_in_transaction', 'error_codes', 'prepared', 'unprepared', 'sessions', 'cursors',
    'copy_rows', 'large_objects', 'big_values', 'answers_of_every_size', 'listens', 'concurrent'];
foreach ($checks as $check) {
    if (in_array($check, NEEDS_TWO, true) && getenv('ONE_CONNECTION')) {
        $skipped++;
        echo "skip $check: it needs two server connections\n";
        continue;
    }
    try {
        $check();
        $passed++;
        echo "ok   $check\n";
    } catch (Throwable $error) {
        $failed++;
        echo "FAIL $check: ", get_class($error), ': ', preg_replace('/\s+/', ' ', $error->getMessage()), "\n";
        if (getenv('VERBOSE')) {
            echo $error->getTraceAsString(), "\n";
        }
    }
}
echo "$passed passed, $failed failed, $skipped skipped\n";
exit($failed ? 1 : 0);
