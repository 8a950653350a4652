/* Style sheet and script of the page: self-contained, light and dark by the reader's setting, printable. Kept in
 * pieces because C11 promises string literals of 4095 bytes only. */
#include "report/page.h"

static const char *const style[] = {
    ":root{color-scheme:light dark;--ink:#1c1e21;--soft:#5b6068;--line:#d5d8dd;--paper:#fff;--panel:#f5f6f8;"
    "--accent:#0072b2;--good:#00704f;--bad:#b04800;--badfill:#fdeee4;--skip:#7a5a00;--skipfill:#fbf3dc}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e4e6ea;--soft:#a3a9b3;--line:#3a3f47;--paper:#16181c;"
    "--panel:#1f2227;--accent:#6cb8ea;--good:#3fc79b;--bad:#ff9a5c;--badfill:#3a2416;--skip:#e3bb4f;"
    "--skipfill:#332b14}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,\"Segoe UI\","
    "Roboto,\"DejaVu Sans\",sans-serif}\n"
    "main{max-width:1440px;margin:0 auto;padding:24px 16px 64px}\n"
    "h1{font-size:1.7rem;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:40px 0 10px;"
    "padding-top:10px;border-top:1px solid var(--line)}h3{font-size:1rem;margin:22px 0 6px}\n"
    "p,li{max-width:80ch;overflow-wrap:anywhere}a{color:var(--accent)}small,.soft{color:var(--soft)}small{font-size:."
    "8em}\n"
    "code,pre{font-family:ui-monospace,\"DejaVu Sans Mono\",Consolas,monospace;font-size:.85em}\n"
    "pre{background:var(--panel);border:1px solid var(--line);padding:10px 12px;overflow-x:auto;white-space:pre-wrap;"
    "overflow-wrap:anywhere}\n"
    "nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:14px 0 0}\n",
    ".badges{display:flex;flex-wrap:wrap;gap:8px;list-style:none;padding:0;margin:12px 0}\n"
    ".badges li{border:1px solid var(--line);border-radius:4px;padding:2px 10px;background:var(--panel)}\n"
    ".badges .good{border-color:var(--good);color:var(--good)}\n"
    ".badges .bad,.alert{border-color:var(--bad);color:var(--bad);background:var(--badfill)}\n"
    ".badges .skip{border-color:var(--skip);color:var(--skip);background:var(--skipfill)}\n"
    ".alert{border:1px solid var(--bad);border-left-width:6px;padding:8px 12px;margin:12px 0}\n"
    ".answer{font-size:1.05rem}.answer li{margin:6px 0}\n"
    ".good{color:var(--good)}.bad{color:var(--bad)}.skip{color:var(--skip)}\n"
    ".scroll{overflow-x:auto;border:1px solid var(--line);margin:8px 0}\n"
    ".scroll:focus-visible{outline:2px solid var(--accent)}\n"
    "table{border-collapse:collapse;width:100%;font-size:.82rem;font-variant-numeric:tabular-nums}\n"
    "caption{text-align:left;padding:6px 10px;color:var(--soft);caption-side:bottom}\n"
    "th,td{padding:5px 5px;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}\n"
    "td,th small{white-space:nowrap}td.wrap{white-space:normal;overflow-wrap:anywhere;min-width:14ch}\n"
    "td small,th small{display:block;font-weight:400}\n"
    "thead th{background:var(--panel);vertical-align:bottom;text-align:right}\n"
    "th.text,td.text{text-align:left}tbody th{font-weight:600;text-align:left;min-width:15ch;max-width:36ch;"
    "overflow-wrap:anywhere}tbody th small{font-weight:400;white-space:normal;display:block}\n"
    "tr.baseline td,tr.baseline th{background:var(--panel)}\n"
    "tr.bad th,tr.bad td{background:var(--badfill)}tr.skip th,tr.skip td{background:var(--skipfill)}\n"
    "th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid var(--accent)}\n"
    "th button:hover::after,th button:focus-visible::after{content:\"\\2195\";color:var(--soft)}\n"
    "thead th[scope=colgroup]{text-align:center;border-left:1px solid var(--line)}\n"
    "th[aria-sort=ascending] button::after{content:\"\\2191\";color:var(--accent)}\n"
    "th[aria-sort=descending] button::after{content:\"\\2193\";color:var(--accent)}\n",
    "figure{margin:18px 0 30px}figure svg{display:block;width:100%;max-width:1040px;height:auto;color:var(--ink);"
    "border:1px solid var(--line)}figcaption{max-width:90ch;margin-top:6px;color:var(--soft)}\n"
    "dl{display:grid;grid-template-columns:minmax(9em,max-content) 1fr;gap:4px 18px;margin:8px 0}dt{color:var(--soft)}"
    "dd{margin:0;overflow-wrap:anywhere}\n"
    "summary{cursor:pointer;margin:8px 0}\n"
    "@media (max-width:640px){main{padding:16px 12px}dl{grid-template-columns:1fr}dd{margin-bottom:6px}}\n"
    "@media print{:root{--ink:#000;--soft:#333;--line:#999;--paper:#fff;--panel:#fff;--accent:#000;--good:#000;"
    "--bad:#000;--badfill:#fff;--skip:#000;--skipfill:#fff;color-scheme:light}nav{display:none}"
    "main{max-width:none;padding:0}body{font-size:10.5pt}.scroll{overflow:visible;border:0}table{font-size:7.5pt}"
    "th,td{padding:2px 4px}th "
    "button::after{content:none!important}figure,tr{break-inside:avoid}h2,h3{break-after:avoid}"
    "a{text-decoration:none}}\n",
};

/* Sorting: a click or Enter on a column head sorts by the data-v of its cells, numbers before texts, absent last. */
static const char script[] =
    "document.querySelectorAll('table.sortable').forEach(function(table){\n"
    "  var heads=Array.prototype.slice.call(table.tHead.rows[table.tHead.rows.length-1].cells),body=table.tBodies[0];\n"
    "  function value(row,i){var v=row.cells[i].getAttribute('data-v');return v===null?row.cells[i].textContent:v}\n"
    "  heads.forEach(function(head,i){\n"
    "    var button=document.createElement('button');button.type='button';\n"
    "    while(head.firstChild)button.appendChild(head.firstChild);\n"
    "    head.appendChild(button);head.setAttribute('aria-sort','none');\n"
    "    button.addEventListener('click',function(){\n"
    "      var down=head.getAttribute('aria-sort')==='ascending',rows=Array.prototype.slice.call(body.rows);\n"
    "      heads.forEach(function(other){other.setAttribute('aria-sort','none')});\n"
    "      head.setAttribute('aria-sort',down?'descending':'ascending');\n"
    "      rows.sort(function(a,b){\n"
    "        var x=value(a,i),y=value(b,i),p=parseFloat(x),q=parseFloat(y);\n"
    "        if(x===''||y==='')return x===y?0:x===''?1:-1;\n"
    "        var order=isNaN(p)||isNaN(q)?x.localeCompare(y):p-q;\n"
    "        return down?-order:order});\n"
    "      rows.forEach(function(row){body.appendChild(row)});\n"
    "    });\n"
    "  });\n"
    "});\n";

void page_begin(struct text *page, const char *title) {
    text_raw(page,
             "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
             "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
             "script-src 'unsafe-inline'\">\n<title>");
    text_escape(page, title);
    text_raw(page, "</title>\n<style>\n");
    for (size_t i = 0; i < sizeof style / sizeof *style; i++) text_raw(page, style[i]);
    text_raw(page, "</style>\n</head>\n<body>\n<main>\n");
}

void page_end(struct text *page) {
    text_raw(page, "</main>\n<script>\n");
    text_raw(page, script);
    text_raw(page, "</script>\n</body>\n</html>\n");
}
