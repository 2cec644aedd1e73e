"""Shows the pages of timelines in Chromium, and checks what they draw and do.

Arguments: the folder of the pages, the hostile text, a folder for screenshots, and one for the
browser's profile.
"""
import itertools, re

pages, hostile, folder, profile = sys.argv[1:]
KEYS = {'ArrowLeft': 37, 'ArrowRight': 39, 'ArrowUp': 38, 'ArrowDown': 40, 'Home': 36, 'End': 35,
        'Escape': 27}


def open_page(browser, name, fragment=''):
    # From a page to its own fragment there would be no new load.
    browser.call('Page.navigate', url='about:blank')
    browser.call('Page.navigate', url=f'file://{pages}/{name}.html{fragment}')
    browser.until("document.readyState === 'complete' && typeof work === 'object' && work.frames")
    assert not browser.complaints, browser.complaints


def resize(browser, width):
    browser.call('Emulation.setDeviceMetricsOverride',
                 width=width, height=900, deviceScaleFactor=1, mobile=False)


def press(browser, *keys):
    for key in keys:
        text = {'text': key} if len(key) == 1 else {}
        code = {'windowsVirtualKeyCode': KEYS[key]} if key in KEYS else {}
        browser.call('Input.dispatchKeyEvent', type='keyDown', key=key, **text, **code)
        browser.call('Input.dispatchKeyEvent', type='keyUp', key=key, **code)


def texts(browser, selector):
    return browser.value(f"[...document.querySelectorAll('{selector}')].map((e) => e.innerText)")


def selected(browser):
    return browser.value("document.querySelector('#details h2').innerText")


def check_every_kind(browser):
    open_page(browser, 'every_kind')
    assert browser.value('document.title') == 'every kind of event'
    assert texts(browser, '#facts div') == ['machine\nmessage server']
    assert texts(browser, '#totals') == ['28 events · 4 lanes · 1.11ms']
    kinds = set(browser.value('shown.map((event) => KINDS[kindOf[event]][0])'))
    assert len(kinds) == 19 == browser.value('KINDS.length'), kinds
    rows = browser.value("shown.map((event) => `${laneName(laneOf[event])}: ${describe(event)}`)")
    for row in ['client/0 client: Dialled', 'client/1 client: Refused',
                'server host: Note: the clock drifts by 12 ppm', 'client/0 server: Fault: stall',
                'client/0 server: Deadline in 778µs', 'client/0 server: Reason: flush_timeout',
                'client/0 server: Received 14 bytes {"action":"sea']:
        assert row in rows, (row, rows)
    # The reads of each write, of a FIN, of an RST, and the steps of connecting.
    effects = dict(browser.value('[...effects]'))
    expected = {0: [2], 2: [6], 7: [9, 11], 15: [16], 17: [19], 24: [26]}
    assert effects == expected, effects
    # Each event has a mark, without its label and lines: without it, pixels are different.
    missing = browser.value("""(() => {
        pen.fillText = pen.strokeText = () => {};
        [effects, causes].forEach((map) => map.clear());
        deadlinesOf.forEach((list) => { list.length = 0; });
        setAxis('order');
        const pixels = (row) => {
            draw();
            const image = pen.getImageData(gutter, toY(row), area.width - gutter, layout.row);
            return new Uint32Array(image.data.buffer);
        };
        return [...shown].filter((event) => {
            const row = rowOf.get(laneOf[event]);
            const [{ events }, all] = [row, pixels(row)];
            row.events = events.filter((other) => other !== event);
            const changes = pixels(row).filter((pixel, i) => pixel !== all[i]).length;
            row.events = events;
            return changes < 8;
        }).map((event) => describe(event));
    })()""")
    assert missing == [], missing
    # The browser advises against reading pixels.
    browser.complaints.clear()


def check_movement(browser):
    open_page(browser, 'every_kind')
    assert selected(browser) == 'Dialled'
    press(browser, 'ArrowRight', 'ArrowRight')
    assert selected(browser) == 'Accepted'
    press(browser, 'n')
    assert selected(browser) == 'Refused'
    press(browser, 'n', 'n')
    assert selected(browser) == 'Timeout'
    press(browser, 'p')
    assert selected(browser) == 'Fault: stall'
    press(browser, 'ArrowLeft', 'f')
    assert selected(browser) == 'Sent 36 bytes', 'the write that the read has returned'
    press(browser, 'm', 'End')
    details = texts(browser, '#details')[0]
    assert 'Closed' in details and 'since the mark\n860µs' in details, details
    press(browser, 'Home', 'ArrowDown')
    assert 'client/0 server' in texts(browser, '#details')[0]
    width = browser.value('view.width')
    press(browser, '+')
    assert browser.value('view.width') == width / 2
    # The slider moves by events.
    browser.value("$('slider').value = 15; $('slider').oninput()")
    details = texts(browser, '#details')[0]
    for part in ['Sent 46 bytes', '0 to 46', 'answering', 'by the clock 1000000.00056s',
                 'In the caves beneath the Misty Mountains. 💍',
                 '49 6e 20 74 68 65 20 63  In the c', 'f0 9f 92 8d', '130µs',
                 'Arrives at\nclient/0 client, Received 46 bytes']:
        assert part in details, (part, details)
    # A click selects the event that is drawn there.
    browser.value('fit(); setAxis("order"); draw()')
    x, y = browser.value("""
        (({ left, top }) => [left + toX(place(10)),
            top + toY(rowOf.get(laneOf[10])) + layout.middle])(canvas.getBoundingClientRect())
    """)
    for kind in ['mousePressed', 'mouseReleased']:
        browser.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)
    assert selected(browser) == 'Fault: stall'


def check_filter_and_fragment(browser):
    open_page(browser, 'every_kind')
    press(browser, '/', *'CAVES', 'Escape')
    assert browser.value('shown.map((event) => describe(event, 0))') == [
        'Sent 46 bytes', 'Received 46 bytes']
    assert texts(browser, '#totals')[0].startswith('2 of 28 events · 2 lanes · ')
    browser.value("$('text').value = '0xf09f928d'; $('text').oninput()")
    assert browser.value('shown.length') == 2
    browser.value("$('text').value = ''; $('text').oninput()")
    press(browser, 'l')
    assert browser.value('rows.map(({ lane }) => laneName(lane))') == [
        'client/0 client', 'client/0 server']
    press(browser, 'l')
    assert browser.value('rows.length') == 4
    chip = "$('kinds').querySelector('[data-group=fault]')"
    browser.value(f'{chip}.click()')
    assert browser.value('shown.length') == 27 and not browser.value('shown.includes(10)')
    browser.value(f"{chip}.dispatchEvent(new MouseEvent('click', {{ shiftKey: true }}))")
    assert browser.value('shown') == [10]
    browser.value(f"{chip}.dispatchEvent(new MouseEvent('click', {{ shiftKey: true }}))")
    assert browser.value('shown.length') == 28
    browser.value("$('text').value = 'misty'; $('text').oninput()")
    browser.value("$('lanes').value = 'server'; $('lanes').oninput()")
    browser.value(f'{chip}.click()')
    assert browser.value('shown') == [15]
    press(browser, 'a', '+')
    state = '''JSON.stringify([view, [...view.hidden], shown],
        (key, value) => (typeof value === 'number' ? +value.toPrecision(9) : value))'''
    before = browser.value(state)
    browser.until('location.hash === toFragment()')
    fragment = browser.value('location.hash')
    open_page(browser, 'every_kind', fragment)
    assert browser.value(state) == before, (fragment, before, browser.value(state))
    # A moment by the run's clock, as a failure prints it.
    open_page(browser, 'every_kind', '#at=1000000.0005105s')
    assert browser.value('view.cursor') == 11 and selected(browser) == 'Received 22 bytes'
    # A wrong address is no error.
    for wrong in ['at=x&from=NaN&width=-1&event=-5&axis=up&hide=all', 'at=' + '9' * 4000,
                  'event=1e99&width=1e300&from=0', '%E0%A4%A', 'text=%00&lanes=%3Cb%3E']:
        browser.value(f"location.hash = '{wrong}'; fromFragment(); draw()")
    assert browser.value('shown.length') == 0
    assert texts(browser, '#details') == ['No event']


def check_hostile(browser):
    open_page(browser, 'hostile')
    assert browser.value('document.title') == hostile
    assert browser.value("[document.scripts.length, document.images.length]") == [2, 0]
    assert texts(browser, '#facts div')[0].count('<img src=x') == 2
    press(browser, 'End', 'ArrowLeft')
    details = texts(browser, '#details')[0]
    for part in ['Received 9,007,199,254,740,992 bytes', 'f8 f9 fa fb fc fd fe ff',
                 'ffffffffffffffff', '9,007,199,254,740,736 bytes more are not']:
        assert part in details, (part, details)
    # The policy forbids a request.
    browser.value("""
        window.addEventListener('securitypolicyviolation', (event) => { refused = event; });
        new Image().src = 'http://127.0.0.1:9/';
    """)
    browser.until("window.refused?.blockedURI === 'http://127.0.0.1:9/'")
    browser.complaints.clear()
    open_page(browser, 'empty')
    press(browser, 'ArrowRight', 'End', 'n', '+', 'm', 'a', 'l')
    assert not browser.complaints, browser.complaints


def check_many(browser):
    """What a page of 100,000 events does is counted, since time depends on the machine."""
    open_page(browser, 'few')
    few = browser.value("document.querySelectorAll('*').length")
    open_page(browser, 'many')
    assert texts(browser, '#totals') == ['100,000 events · 20 lanes · 3.1s'], texts(
        browser, '#totals')
    assert browser.value("document.querySelectorAll('*').length") < few + 20
    # All events of the visible lanes are on the screen: one mark for a pixel and a direction.
    work, pixels = browser.value(
        '[work, (area.width - gutter) * Math.ceil(area.height / layout.row)]')
    assert work['events'] > 50000 and work['marks'] < 2 * pixels + 500, (work, pixels)
    # Of a part, only its events.
    frames = browser.value("""
        view.width = extent() / 1000;
        view.from = extent() / 2;
        const frames = work.frames;
        for (let i = 0; i < 100; i += 1) step(shown, 1);
        frames
    """)
    browser.until(f'work.frames > {frames}')
    work = browser.value('work')
    assert work['frames'] == frames + 1, '100 movements draw once'
    assert work['events'] < 100, work
    browser.value("$('text').value = 'message 00024999'; $('text').oninput()")
    assert browser.value('shown') == [99996, 99997, 99998, 99999]


def check_labels(browser):
    """No label of a lane covers another one, whatever the width of the window."""
    for name, width in itertools.product(['every_kind', 'session', 'simulated'], [1400, 420]):
        resize(browser, width)
        open_page(browser, name)
        if width == 1400:
            assert browser.value('layout === SPACIOUS') == (name != 'simulated'), name
        for axis in ['time', 'order']:
            drawn, covered = browser.value(f"""(() => {{
                setAxis('{axis}');
                fit();
                const labels = [];
                pen.fillText = (text, x, y) => {{
                    if (x < gutter || y < RULER) return;
                    labels.push({{ text, x, y, end: x + pen.measureText(text).width }});
                }};
                draw();
                delete pen.fillText;
                const covers = (one, other) => one !== other && Math.abs(one.y - other.y) < 11
                    && one.x < other.end && other.x < one.end;
                return [labels.length, labels.filter((one) =>
                    one.end > area.width || labels.some((other) => covers(one, other)))];
            }})()""")
            assert drawn > 5 and covered == [], (name, width, axis, drawn, covered)
    resize(browser, 1400)


def check_moment(browser):
    """The names of the lanes show what holds at the moment, not after later events of its time."""
    open_page(browser, 'session')
    names = browser.value("""(() => {
        select(8);
        const names = [];
        pen.fillText = (text, x) => { if (x < gutter) names.push(text); };
        draw();
        delete pen.fillText;
        return names;
    })()""")
    assert 'idle' in names and '↑25 ↓79' in names, names


def check_simulated(browser):
    """Each fault that has struck is an event, and what was done to a host is in its lane."""
    open_page(browser, 'simulated')
    rows = browser.value("shown.map((event) => `${laneName(laneOf[event])}: ${describe(event)}`)")
    for row in [r'client-\d/\d client: Fault: short_write = \d+ of \d+',
                r'client-\d/\d client: Fault: short_read = \d+ of \d+',
                r'client-\d/\d client: Fault: would_block = [\d.]+[nµm]s',
                r'client-\d host: Fault: faults = (short_read|short_write) \d+, ']:
        assert any(re.match(row, one) for one in rows), (row, rows[:100])


def screenshots(browser):
    open_page(browser, 'simulated')
    press(browser, 'n')
    light = browser.show(folder, 'light', 1400, 'light')
    assert light != browser.show(folder, 'dark', 1400, 'dark')
    browser.show(folder, 'narrow', 420, 'light')
    open_page(browser, 'session')
    browser.show(folder, 'session', 1280, 'light')


browser = Browser(profile)
try:
    resize(browser, 1400)
    for check in [check_every_kind, check_movement, check_filter_and_fragment, check_hostile,
                  check_many, check_labels, check_moment, check_simulated, screenshots]:
        check(browser)
        assert not browser.complaints, browser.complaints
finally:
    browser.process.kill()
    browser.process.wait()
