#!/usr/bin/env python3
"""Writes products.jsonl and orders.jsonl next to itself (coupons.jsonl is written by hand): always the same bytes, whatever the Python version.

usage: python3 examples/make_orders.py
"""
import json
import pathlib

HERE = pathlib.Path(__file__).parent
SOLD_OUT = "TEA-PUER-1998"
UNKNOWN = "TEA-YETI-0001"


class Dice:
    """A linear congruential generator (Knuth's MMIX constants): the same numbers everywhere."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffle(self, items):
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


# sku, name, price
PRODUCTS = [
    ("TEA-LONGJING-100", "明前西湖龙井 100g", 168.00), ("TEA-LONGJING-250", "西湖龙井 250g", 298.00),
    ("TEA-BILUOCHUN-100", "洞庭碧螺春 100g", 139.00), ("TEA-TIEGUANYIN-250", "安溪铁观音 250g", 128.50),
    ("TEA-DAHONGPAO-80", "武夷大红袍 80g", 199.00), ("TEA-PUER-357", "云南七子饼熟普洱 357g", 88.80),
    ("TEA-JASMINE-150", "福州茉莉花茶 150g", 45.90), ("TEA-KEEMUN-125", "祁门红茶 125g", 76.00),
    (SOLD_OUT, "1998 年老班章普洱 357g", 6800.00), ("TEA-CHRYS-50", "杭白菊 50g", 29.90),
    ("CUP-RUYAO-01", "汝窑天青品茗杯", 128.00), ("CUP-GAIWAN-02", "景德镇青花盖碗", 89.00),
    ("POT-ZISHA-01", "宜兴紫砂壶 200ml", 368.00), ("TRAY-BAMBOO-01", "竹制茶盘", 159.00),
    ("CUP-TRAVEL-03", "便携旅行茶具套装", 99.90), ("RICE-WUCHANG-5", "五常大米 5kg", 69.90),
    ("RICE-MILLET-2", "沁州黄小米 2.5kg", 39.80), ("NOODLE-KNIFE-01", "山西刀削面 1kg", 19.90),
    ("NOODLE-LUOSI-5", "柳州螺蛳粉 5 袋装", 49.90), ("NOODLE-REGAN-4", "武汉热干面 4 盒装", 32.80),
    ("SAUCE-LAOGANMA-2", "老干妈风味豆豉 280g x 2", 19.60), ("SAUCE-PIXIAN-500", "郫县豆瓣 500g", 15.80),
    ("SAUCE-VINEGAR-500", "镇江香醋 500ml", 12.50), ("SAUCE-SOY-1L", "头道酱油 1L", 23.90),
    ("HOTPOT-BASE-500", "重庆牛油火锅底料 500g", 26.90), ("SNACK-MOONCAKE-8", "广式莲蓉月饼 8 枚礼盒", 158.00),
    ("SNACK-SACHIMA-1", "沙琪玛 1kg", 28.80), ("SNACK-NUTS-30", "每日坚果 30 包", 109.00),
    ("SNACK-JERKY-200", "内蒙古风干牛肉干 200g", 68.00), ("SNACK-DATE-1", "新疆若羌红枣 1kg", 36.60),
    ("FRUIT-CITRUS-5", "赣南脐橙 5kg", 59.80), ("FRUIT-KIWI-30", "周至猕猴桃 30 枚", 79.00),
    ("FRUIT-APPLE-10", "烟台红富士 10 枚", 49.00), ("EGG-FREE-30", "散养土鸡蛋 30 枚", 45.00),
    ("OIL-PEANUT-5", "鲁花花生油 5L", 139.90), ("OIL-CAMELLIA-1", "野生山茶油 1L", 118.00),
    ("SILK-QUILT-2", "桐乡蚕丝被 2kg", 899.00), ("SILK-SCARF-01", "杭州真丝围巾", 219.00),
    ("SILK-PILLOW-01", "真丝枕套一对", 259.00), ("FAN-FOLD-01", "苏州檀香折扇", 88.00),
    ("INK-SET-04", "文房四宝礼盒", 326.00), ("PAPER-XUAN-100", "泾县宣纸 100 张", 118.00),
    ("BRUSH-HU-05", "湖笔五支套装", 96.00), ("LAMP-PALACE-01", "宫灯小夜灯", 69.00),
    ("TOY-KONGMING-01", "孔明锁六件套", 58.00), ("CHESS-XIANG-01", "红木中国象棋", 138.00),
    ("CHESS-MAJONG-01", "四川麻将 40mm", 188.00), ("HERB-GOJI-500", "宁夏中宁枸杞 500g", 56.00),
    ("HERB-EJIAO-250", "东阿阿胶糕 250g", 149.00), ("HERB-GINSENG-100", "长白山人参片 100g", 268.00),
]
SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡林郭何高罗"
GIVEN = ["伟", "芳", "娜", "秀英", "敏", "静", "丽", "强", "磊", "洋", "艳", "勇", "杰", "娟", "涛", "明", "超", "霞", "平", "子涵", "雨欣", "浩然", "思远"]
PLACES = [
    "北京市朝阳区望京街 10 号院", "上海市徐汇区漕溪北路 88 弄", "广州市天河区体育西路 191 号", "深圳市南山区科苑路 15 号",
    "杭州市西湖区文三路 478 号", "成都市武侯区天府大道北段 1700 号", "武汉市洪山区珞喻路 1037 号", "西安市雁塔区小寨西路 26 号",
    "南京市鼓楼区中山北路 30 号", "重庆市渝中区解放碑步行街 6 号", "苏州市工业园区星湖街 328 号", "天津市和平区南京路 219 号",
    "长沙市岳麓区麓山南路 932 号", "郑州市金水区花园路 39 号", "青岛市市南区香港中路 76 号", "沈阳市和平区太原街 58 号",
    "昆明市五华区翠湖南路 4 号", "厦门市思明区环岛南路 3699 号", "哈尔滨市道里区中央大街 107 号", "福州市鼓楼区杨桥东路 8 号",
]
REMARKS = ["", "", "", "", "请放门卫，谢谢", "工作日送货", "周末送，平时家里没人", "送货前请打电话", "麻烦包装严实一点，送人的", "不要发圆通",
           "发票抬头：杭州如意科技有限公司", "放快递柜就行", "尽快发货", "生日礼物，请附贺卡：生日快乐！", "上次的很好喝，又来了 😊"]

# How many orders of each case, and what must come out.
CASES = [
    ("normal", "SIGNED", 931), ("sold_out", "CANCELED", 28), ("unknown_sku", "REJECTED", 12), ("malformed", "REJECTED", 8),
    ("never_paid", "CANCELED", 24), ("canceled_at_once", "CANCELED", 12), ("canceled_before_paying", "CANCELED", 20),
    ("canceled_after_paying", "REFUNDED", 28), ("callback_repeated", "SIGNED", 30), ("two_transactions", "SIGNED", 14),
    ("paid_after_cancel", "REFUNDED", 20), ("wrong_amount", "CANCELED", 10), ("bad_signature", "CANCELED", 10),
    ("quantity_zero", "REJECTED", 6), ("quantity_over", "REJECTED", 6), ("too_many_lines", "REJECTED", 4),
    ("wrong_type", "REJECTED", 6), ("duplicate_key", "SIGNED", 10),
    ("partly_refunded", "SIGNED", 6), ("refunded_in_parts", "SIGNED", 5),
]
MALFORMED = ['{"userId":"10001","items":[{"sku":"TEA-JASMINE-150","quantity":1', "userId=10001&sku=TEA-JASMINE-150",
             '{"userId":"10001",,}', "订单：两罐茉莉花茶", '["TEA-JASMINE-150",1', '{"userId":"10001" "items":[]}',
             "<order><sku>TEA-JASMINE-150</sku></order>", "{'userId':'10001'}"]


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def order(dice, number, case, expect):
    skus = [sku for sku, _, _ in PRODUCTS if sku != SOLD_OUT]
    lines = 1 if dice.below(10) < 6 else 2 + dice.below(3)
    dice.shuffle(skus)
    items = [{"sku": sku, "quantity": 1 + dice.below(3)} for sku in skus[:lines]]
    user = str(10001 + dice.below(400))
    line = {"case": case, "expect": expect, "idempotencyKey": f"ex-{number:05d}", "userId": user, "items": items}
    if remark := dice.pick(REMARKS):
        line["remark"] = remark
    name = dice.pick(SURNAMES) + dice.pick(GIVEN)
    line["address"] = f"{dice.pick(PLACES)} {1 + dice.below(20)} 栋 {1 + dice.below(30)}0{1 + dice.below(4)} 室 {name} 收"
    if case == "sold_out":
        items.insert(dice.below(len(items) + 1), {"sku": SOLD_OUT, "quantity": 1})
    elif case == "unknown_sku":
        items.append({"sku": UNKNOWN, "quantity": 1})
    elif case == "never_paid":
        line["payWithinSeconds"] = 2
    elif case in ("wrong_amount", "bad_signature"):
        line["payWithinSeconds"] = 3
    elif case in ("canceled_after_paying", "paid_after_cancel"):
        line["holdSeconds"] = 3600
    elif case == "quantity_zero":
        items[0]["quantity"] = 0
    elif case == "quantity_over":
        items[0]["quantity"] = 10000
    elif case == "too_many_lines":
        line["items"] = [{"sku": skus[n % len(skus)], "quantity": 1} for n in range(65)]
    elif case == "wrong_type":
        wrong = [("items", "TEA-JASMINE-150 x 1"), ("userId", {"id": 10001}), ("items", [{"sku": 7, "quantity": 1}]),
                 ("items", [{"sku": "TEA-JASMINE-150", "quantity": "两罐"}]), ("userId", None), ("items", [])]
        field, value = wrong[number % len(wrong)]
        line[field] = value
    return line


def spread(dice, lines, extra):
    """Puts `extra`, in any order, between `lines`, as evenly as they go."""
    dice.shuffle(extra)
    gap = len(lines) // len(extra)
    for place, line in enumerate(extra):
        # From the end on, so that earlier places stay what they are.
        lines.insert((len(extra) - place) * gap - 1, line)
    return lines


# Orders with a coupon, put between the others: case, expected end, templates, how many.
SMALL = ["DEMO-AMOUNT", "DEMO-PERCENT"]
COUPON_CASES = [
    ("coupon_used", "SIGNED", SMALL, 16), ("coupon_canceled", "CANCELED", SMALL, 8),
    ("coupon_refunded", "REFUNDED", SMALL, 8), ("coupon_twice", "SIGNED", SMALL, 4),
    ("coupon_too_small", "REJECTED", ["DEMO-HUGE"], 4),
]


def with_coupons(lines):
    dice, number, extra = Dice(20250601), 2000, []
    for case, expect, templates, count in COUPON_CASES:
        for n in range(count):
            number += 1
            line = order(dice, number, case, expect)
            if n % 4 == 3 and case == "coupon_used":
                line["items"] = [{"sku": "TEA-LONGJING-100", "quantity": 1}]
                line["coupon"] = "DEMO-THRESHOLD"
            else:
                line["coupon"] = templates[n % len(templates)]
            if case == "coupon_refunded":
                line["holdSeconds"] = 3600
            extra.append(dump(line))
    return spread(dice, lines, extra)


# Orders that the sandbox warehouse refuses, or would have refused at their first address.
FULFILMENT_CASES = [
    ("warehouse_refused", "REFUNDED", "sandbox:refuse ", 8), ("warehouse_refused_later", "REFUNDED", "sandbox:refuse-later ", 6),
    ("address_changed", "SIGNED", "sandbox:refuse ", 6),
]


def with_refusals(lines):
    dice, number, extra = Dice(20250901), 3000, []
    for case, expect, mark, count in FULFILMENT_CASES:
        for _ in range(count):
            number += 1
            line = order(dice, number, case, expect)
            line["address"] = mark + line["address"]
            extra.append(dump(line))
    return spread(dice, lines, extra)


# Orders whose callback is lost, whose users are told by text message; and payments of a merchant's own orders.
OUTSIDE_CASES = [("callback_lost", "SIGNED", 10), ("text_messages", "SIGNED", 12)]
GATEWAY_CASES = [
    ("gateway_paid", "PAID", 24), ("gateway_twice", "PAID", 6), ("gateway_refunded", "REFUNDED", 10),
    ("gateway_closed", "REFUNDED", 8), ("gateway_too_much", "REJECTED", 4), ("gateway_unknown", "REJECTED", 4),
]


def with_outside(lines):
    dice, number, extra = Dice(20251101), 4000, []
    for case, expect, count in OUTSIDE_CASES:
        for _ in range(count):
            number += 1
            extra.append(dump(order(dice, number, case, expect)))
    for case, expect, count in GATEWAY_CASES:
        for _ in range(count):
            number += 1
            cents = 100 + dice.below(400000) + (500000 if case == "gateway_too_much" else 0)
            merchant = "9002" if case == "gateway_unknown" else "9001"
            extra.append(dump({
                "case": case, "expect": expect, "idempotencyKey": f"ex-{number:05d}", "merchantId": merchant,
                "amount": cents / 100, "productId": "h5", "channelId": "sandbox", "extraArg": dice.pick(["", "春季活动", "app"]),
            }))
    return spread(dice, lines, extra)


def main():
    dice = Dice(20240601)
    products = [{"sku": sku, "name": name, "price": price, "available": 0 if sku == SOLD_OUT else 20000}
                for sku, name, price in PRODUCTS]
    orders, number = [], 0
    for case, expect, count in CASES:
        for n in range(count):
            number += 1
            if case == "malformed":
                orders.append([MALFORMED[n % len(MALFORMED)]])
                continue
            line = dump(order(dice, number, case, expect))
            # The same line twice: the customer pressed the button twice.
            orders.append([line, line] if case == "duplicate_key" else [line])
    dice.shuffle(orders)
    lines = with_outside(with_refusals(with_coupons([line for group in orders for line in group])))
    (HERE / "products.jsonl").write_text("".join(dump(product) + "\n" for product in products), encoding="utf-8")
    (HERE / "orders.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
