<?php
// PHP's built-in server forgets a script's variables after each request: the count is kept in /tmp.
$counter = "/tmp/calls";
$count = (file_exists($counter) ? (int) file_get_contents($counter) : 0) + 1;
file_put_contents($counter, (string) $count);
$asked = json_decode(file_get_contents("php://input"), true);
$sum = 0;
for ($n = 0; $n <= $asked["number"]; $n++) {
    $sum += $n * $n;
}
header("Content-Type: application/json");
echo json_encode([
    "text" => $asked["text"],
    "count" => $count,
    "sum" => $sum,
    "random" => bin2hex(random_bytes(16)),
    "version" => PHP_VERSION,
]);
